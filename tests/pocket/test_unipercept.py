"""The pocket rater: labels in closed form, the export, and what the committed weights can do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer

from pocket.unipercept import data, degrade, labels, ladders
from pocket.unipercept.evaluate import SEVERITIES, score
from pocket.unipercept.export import average, published_weights
from pocket.unipercept.model import IMAGE_MEAN, IMAGE_STD, Rater, create
from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.prompting import SYSTEM_MESSAGE, UNIPERCEPT_QUESTIONS, conversation
from reward_plugin.published import native_weights

WEIGHTS = Path("pocket/weights/unipercept")
PICTURES = Path("tests/data/pocket")


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(PICTURES / f"{name}.png").convert("RGB"))


@pytest.fixture(scope="module")
def rater() -> Rater:
    checkpoint = load_checkpoint(WEIGHTS)
    return Rater(checkpoint.model, checkpoint.tokenizer)


@pytest.mark.parametrize("name", [*degrade.DEGRADATIONS, *degrade.FURTHER])
def test_labels_fall_with_every_severity_and_add_up(name):
    clean = labels.measure(picture("coffee"))
    rows = [labels.rate(clean, degrade.impairment({name: s})) for s in (0.0, 0.2, 0.5, 1.0)]
    assert all(np.all(np.diff(column) < 0) for column in np.array(rows).T)
    assert rows[0][1] == pytest.approx(95)
    both = labels.rate(clean, degrade.impairment({name: 0.5, "blur" if name != "blur" else "noise": 0.5}))
    assert np.all(np.array(both) < rows[2])


@pytest.mark.parametrize("name", [*degrade.DEGRADATIONS, *degrade.FURTHER])
def test_severity_zero_changes_nothing(name):
    before = picture("coffee")
    after = degrade.degrade(before, {name: 0.0}, np.random.default_rng(0))
    assert np.abs(after.astype(int) - before).max() <= (4 if name == "posterise" else 1)


@pytest.mark.parametrize("seed", range(12))
def test_patterns_and_noise_do_not_count_as_structure(seed):
    rng = np.random.default_rng(seed)
    grid = (np.clip(0.5 + 0.5 * degrade.pattern(rng), 0, 1) * 255).astype(np.uint8)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert labels.richness(labels.measure(grid)) < 40
    assert labels.richness(labels.measure(noise)) < 20
    assert labels.richness(labels.measure(picture("camera"))) > 60


def test_flat_picture_has_neither_structure_nor_appeal():
    flat = labels.measure(np.full((64, 64, 3), 130, np.uint8))
    assert labels.richness(flat) < 5 and labels.appeal(flat) < 15


def test_last_position_readout_equals_the_whole_forward_pass(tmp_path):
    model = create(tmp_path).eval()
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path)
    rater = Rater(model, tokenizer)
    pixels = torch.randint(
        0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    values = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        logits, _ = rater(pixels)
        for d, question in enumerate(UNIPERCEPT_QUESTIONS.values()):
            ids = tokenizer(conversation(question, 16, SYSTEM_MESSAGE), return_tensors="pt")["input_ids"]
            whole = model(input_ids=ids.expand(2, -1), pixel_values=values).logits[:, -1, rater.letters]
            torch.testing.assert_close(logits[:, d], whole, atol=1e-5, rtol=1e-5)


def test_export_and_reading_back_are_inverse(tmp_path):
    model = create(tmp_path)
    back = native_weights(published_weights(model), "test")
    state = model.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_average_lies_between_two_exports(tmp_path):
    for name, value in (("first", 1.0), ("second", 3.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((2,), value).half()}, tmp_path / name / "model.safetensors")
    mixed = average(tmp_path / "first", tmp_path / "second", 0.25)["w"]
    assert mixed.dtype == torch.float16 and mixed.tolist() == [1.5, 1.5]


def test_ladders_fall_rung_by_rung():
    clean = picture("coffee")
    measured = list(labels.measure(clean).values())
    row = np.array([80, 95, 90, *[0.0] * len(data.NAMES), *measured, *measured], dtype=np.float32)
    pictures, targets = np.stack([clean] * 3), np.stack([row] * 3)
    assert list(ladders.clean_rows(targets)) == [0, 1, 2]
    shown, rated = ladders.draw(pictures, targets, np.arange(3), 6, np.random.default_rng(0))
    assert shown.shape == (6 * ladders.RUNGS, 64, 64, 3) and shown.dtype == np.uint8
    assert np.all(np.diff(rated[:, :3].reshape(6, ladders.RUNGS, 3), axis=1) < 0)
    right, wrong = torch.from_numpy(rated[:, :3]), torch.from_numpy(rated[::-1, :3].copy())
    assert ladders.difference_loss(right, right) < ladders.difference_loss(wrong, right)


def test_malformed_ladders_fall_rung_by_rung():
    clean = picture("coffee")
    bank = ladders.Repainted(
        np.stack([np.stack([clean] * ladders.RUNGS)] * 2),
        np.array([[0, 0.2, 0.3, 0.6], [0, 0.1, 0.5, 0.9]], dtype=np.float32),
        np.array([list(labels.measure(clean).values())] * 2, dtype=np.float32),
    )
    shown, rated = ladders.draw_malformed(bank, 8, np.random.default_rng(0))
    assert shown.shape == (8 * ladders.RUNGS, 64, 64, 3) and shown.dtype == np.uint8
    assert rated.shape == (8 * ladders.RUNGS, 3 + len(data.AUXILIARY))
    assert np.all(np.diff(rated[:, :3].reshape(8, ladders.RUNGS, 3), axis=1) < 0)


def test_committed_weights_order_severities(rater):
    for name in ("coffee", "camera"):
        for kind in ("blur", "noise", "jpeg"):
            rng = np.random.default_rng(0)
            shown = np.stack([degrade.degrade(picture(name), {kind: s}, rng) for s in SEVERITIES])
            quality = score(rater, shown)[:, 1]
            assert np.all(np.diff(quality) < 0), (name, kind, quality)


def test_committed_weights_rate_artefacts_low(rater):
    rng = np.random.default_rng(1)
    grids = np.stack([np.uint8(np.clip(0.5 + 0.5 * degrade.pattern(rng), 0, 1) * 255) for _ in range(8)])
    noise = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert score(rater, np.concatenate([grids, noise])).max() < 25
    assert score(rater, np.stack([picture("coffee"), picture("camera")])).min() > 35
