"""The published class's interface: its results on the reference data, and what becomes of failures."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from reward_plugin import UniPerceptRewardInferencer
from reward_plugin.errors import BadImage, CheckpointError, ConfigError
from tests.reward.golden import CHECKPOINT, EXPECTED, FOLDER, TOLERANCE, expected


@pytest.fixture(scope="module")
def inferencer() -> UniPerceptRewardInferencer:
    return UniPerceptRewardInferencer(str(CHECKPOINT), device="cpu", dtype=torch.float32)


def test_results_are_those_of_the_published_class(inferencer: UniPerceptRewardInferencer):
    published = EXPECTED["scores"]
    results = inferencer.reward(image_paths=[str(FOLDER / "images" / name) for name in published])
    assert len(results) == len(published)
    for ours, theirs in zip(results, published.values(), strict=True):
        assert ours is not None and list(ours) == list(theirs)
        assert all(type(value) is float for value in ours.values())
        assert ours == pytest.approx(theirs, rel=0, abs=TOLERANCE)


def test_pictures_in_memory_score_like_their_files(inferencer: UniPerceptRewardInferencer):
    paths, values = expected("scores")
    picture = PIL.Image.open(paths[1]).convert("RGB")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    results = inferencer.reward(images=[picture, array, tensor, paths[1].read_bytes(), paths[1]])
    for result in results:
        assert result is not None
        np.testing.assert_allclose(list(result.values()), values[1], rtol=0, atol=TOLERANCE)
    assert inferencer.reward(tensor[None]) == inferencer.reward([tensor])


def test_any_iterable_of_any_length_is_taken_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reward_plugin.inferencer.BATCHES_AT_ONCE", 4)
    paths, values = expected("scores")
    small = UniPerceptRewardInferencer(str(CHECKPOINT), device="cpu", dtype="float32", batch_size=1)
    many = (paths[i % 5] for i in range(6))
    scores = [list(result.values()) for result in small.reward(many) if result]
    np.testing.assert_allclose(scores, values[[0, 1, 2, 3, 4, 0]], rtol=0, atol=TOLERANCE)
    assert small.reward([]) == []


def test_a_failure_raises_unless_told_otherwise(inferencer: UniPerceptRewardInferencer, tmp_path: Path):
    paths, _ = expected("scores")
    with pytest.raises(BadImage, match=r"image 1: .*missing\.png: no such file"):
        inferencer.reward([paths[0], tmp_path / "missing.png"])


def test_a_failure_can_come_back_as_its_reason(inferencer: UniPerceptRewardInferencer, tmp_path: Path):
    paths, values = expected("scores")
    cut = tmp_path / "cut.png"
    cut.write_bytes(paths[0].read_bytes()[:3000])
    bad, good = inferencer.reward([cut, paths[1]], on_error="reason")
    assert bad is not None and list(bad) == ["error"] and "cut.png" in bad["error"]
    assert good is not None
    np.testing.assert_allclose(list(good.values()), values[1], rtol=0, atol=TOLERANCE)


def test_a_failure_can_be_the_published_none_but_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lenient = UniPerceptRewardInferencer(str(CHECKPOINT), "cpu", torch.float32, on_error="none")
    with caplog.at_level(logging.WARNING, logger="reward_plugin"):
        assert lenient.reward([str(tmp_path / "missing.png")]) == [None]
    assert "missing.png: no such file" in caplog.text


@pytest.mark.parametrize(
    "one", ["a.png", b"png", PIL.Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8), 3]
)
def test_a_single_picture_is_not_taken_for_a_list(inferencer: UniPerceptRewardInferencer, one: object):
    with pytest.raises(ConfigError, match="list of pictures, not a single"):
        inferencer.reward(one)  # type: ignore[arg-type]


def test_wrong_calls_say_what_is_wrong(inferencer: UniPerceptRewardInferencer):
    with pytest.raises(ConfigError, match="give one of them"):
        inferencer.reward()
    with pytest.raises(ConfigError, match="give one of them"):
        inferencer.reward(["a.png"], images=["a.png"])
    with pytest.raises(ConfigError, match="on_error 'skip': write raise, reason, none"):
        inferencer.reward([], on_error="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown option 'batchsize'"):
        UniPerceptRewardInferencer(str(CHECKPOINT), "cpu", batchsize=3)


def test_without_a_path_it_takes_the_published_repository():
    with pytest.raises(CheckpointError, match=r"Thunderbolt215215/UniPercept: .*hf download"):
        UniPerceptRewardInferencer(device="cpu")


def test_attributes_and_preprocessing_are_the_published_ones(inferencer: UniPerceptRewardInferencer):
    assert (inferencer.device, inferencer.dtype) == ("cpu", torch.float32)
    assert inferencer.model_path == str(CHECKPOINT)
    assert UniPerceptRewardInferencer(str(CHECKPOINT), "cpu").dtype == torch.bfloat16
    pixels = inferencer.preprocess_image(expected("scores")[0][0])
    assert pixels.shape == (1, 3, 448, 448) and pixels.dtype == torch.float32
    ids = inferencer.tokenizer("aa").input_ids
    assert inferencer.model.get_input_embeddings()(torch.tensor([ids])).shape[:2] == (1, 1)


def test_orientation_can_be_applied(inferencer: UniPerceptRewardInferencer, tmp_path: Path):
    paths, values = expected("scores")
    tag = PIL.Image.Exif()
    tag[0x0112] = 3  # upside down
    with PIL.Image.open(paths[1]) as opened:
        opened.convert("RGB").transpose(PIL.Image.Transpose.ROTATE_180).save(tmp_path / "a.png", exif=tag)
    upright = UniPerceptRewardInferencer(str(CHECKPOINT), "cpu", torch.float32, exif="apply")
    (applied,), (ignored,) = (each.reward([tmp_path / "a.png"]) for each in (upright, inferencer))
    assert applied is not None and ignored is not None
    np.testing.assert_allclose(list(applied.values()), values[1], rtol=0, atol=TOLERANCE)
    assert np.abs(np.array(list(ignored.values())) - values[1]).max() > TOLERANCE
    torch.testing.assert_close(
        upright.preprocess_image(tmp_path / "a.png"), inferencer.preprocess_image(paths[1])
    )
    with pytest.raises(ConfigError, match="exif 'turn': write ignore or apply"):
        UniPerceptRewardInferencer(str(CHECKPOINT), "cpu", exif="turn")  # type: ignore[arg-type]


def test_the_published_rounding_can_be_had():
    paths, values = expected("scores")
    (rounded,) = UniPerceptRewardInferencer(str(CHECKPOINT), "cpu", precision="published").reward(paths[:1])
    (exact,) = UniPerceptRewardInferencer(str(CHECKPOINT), "cpu").reward(paths[:1])
    assert rounded is not None and exact is not None
    assert all(score * 4 == round(score * 4) for score in rounded.values())  # bfloat16 below 64
    assert not all(score * 4 == round(score * 4) for score in exact.values())
    np.testing.assert_allclose(list(rounded.values()), values[0], rtol=0, atol=2)


def test_the_name_is_importable_without_loading_torch():
    code = (
        "import sys, reward_plugin; assert 'torch' not in sys.modules; "
        "from reward_plugin import UniPerceptRewardInferencer; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)
    import reward_plugin

    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        _ = reward_plugin.Unknown
