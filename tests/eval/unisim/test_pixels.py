"""The floor: errors and statistics of pixels, by hand and against scikit-image."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from skimage.metrics import structural_similarity

from eval.unisim.pixels import STATISTICS, PixelJudge, luma, negative_rmse, ssim
from eval.unisim.samples import Sample
from eval.unisim.tasks import Undefined, evaluate

FLAT = np.zeros((16, 16, 3), dtype=np.uint8)


def noisy(amount: int, seed: int = 0, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    grain = np.random.default_rng(seed).integers(-amount, amount + 1, (*size, 3))
    ramp = np.linspace(60, 190, size[0] * size[1] * 3).reshape(*size, 3)
    return np.clip(ramp + grain, 0, 255).astype(np.uint8)


def big() -> np.ndarray:
    """The clean picture, three times as large."""
    return np.kron(noisy(0), np.ones((3, 3, 1))).astype(np.uint8)


def test_errors_by_hand():
    assert negative_rmse(FLAT, FLAT) == 0.0
    assert negative_rmse(FLAT, FLAT + 3) == pytest.approx(-3)
    half = FLAT.copy()
    half[:8] = 4
    assert negative_rmse(FLAT, half) == pytest.approx(-np.sqrt(8))


def test_ssim_is_that_of_scikit_image():
    for amount in (0, 5, 60):
        first, second = noisy(0), noisy(amount, seed=1)
        expected = structural_similarity(luma(first), luma(second), data_range=255)
        # scikit-image leaves out 3 pixels at each border, as windows that lie inside do
        assert ssim(first, second) == pytest.approx(expected, abs=1e-9)
    assert ssim(noisy(9), noisy(9)) == pytest.approx(1)
    assert ssim(FLAT[:3, :3], FLAT[:3, :3]) == pytest.approx(1)  # smaller than the window
    assert ssim(FLAT[:1, :1], FLAT[:1, :1]) == pytest.approx(1)


def test_statistics_by_hand():
    half = np.zeros((4, 4, 3), dtype=np.uint8)
    half[:, 2:] = 200
    assert STATISTICS["brightness"](half) == pytest.approx(100)
    assert STATISTICS["contrast"](half) == pytest.approx(100)
    assert STATISTICS["colorfulness"](half) == pytest.approx(0)
    assert STATISTICS["sharpness"](half) == STATISTICS[None](half) > STATISTICS["sharpness"](FLAT) == 0


@pytest.fixture
def judge(tmp_path: Path) -> PixelJudge:
    for name, picture in (
        ("clean", noisy(0)),
        ("near", noisy(8, seed=1)),
        ("far", noisy(50, seed=2)),
        ("big", big()),
    ):
        PIL.Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "far.png").read_bytes()[:300])
    return PixelJudge(lambda name: str(tmp_path / name), lambda: {"known.png": "changed"})


def test_the_nearer_picture_is_chosen_and_of_equal_ones_the_first(judge: PixelJudge):
    questions = [
        Sample("0", "img_2afc", ("clean.png", "near.png", "far.png"), label=0),
        Sample("1", "img_2afc", ("clean.png", "far.png", "near.png"), label=1),
        Sample("2", "img_2afc", ("clean.png", "far.png", "far.png"), label=1),
    ]
    found = evaluate("img_2afc", questions, judge)
    assert [outcome.choices for outcome in found] == [
        {"rmse": 0, "ssim": 0}, {"rmse": 1, "ssim": 1}, {"rmse": 0, "ssim": 0}
    ]  # fmt: skip


def test_pictures_of_different_sizes_are_compared(judge: PixelJudge):
    alike = judge.alike(["clean.png", "big.png"], ["big.png", "clean.png"])
    shrunk = PIL.Image.fromarray(big()).resize((30, 40), PIL.Image.Resampling.BICUBIC)
    assert alike["rmse"][0] == alike["rmse"][1] == negative_rmse(noisy(0), np.asarray(shrunk))


def test_a_broken_picture_is_named_and_costs_no_other(judge: PixelJudge):
    questions = [
        Sample("0", "iqa", ("torn.png", "near.png"), label=0),
        Sample("1", "iqa", ("known.png", "near.png"), label=0),
        Sample("2", "iqa", ("clean.png", "far.png"), label=0),
    ]
    torn, known, good = evaluate("iqa", questions, judge)
    assert torn.choices == {} and (torn.error or "").startswith("torn.png: ")
    assert known.error == "known.png: changed"
    assert good.error is None and good.choices == {"": 1}  # grain is sharp


def test_texts_are_not_looked_at(judge: PixelJudge):
    with pytest.raises(Undefined, match="nothing about a text"):
        evaluate("it_2afc", [Sample("0", "it_2afc", ("clean.png", "far.png"), ("a",), 0)], judge)
