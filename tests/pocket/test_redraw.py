"""Repainting with the pocket FLUX: exact at no noise, and malformed pictures rate low."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pocket.unipercept import redraw
from reward_plugin.scorers import build_scorer

CAPTIONS = [
    "a red apple on a teal background", "a dog head on a yellow background", "a red car on snowy ground",
    "a toadstool in a green meadow", "a volleyball on a blue background", "a tiger head on a pink background",
]  # fmt: skip


@pytest.fixture(scope="module")
def painter() -> redraw.Painter:
    return redraw.Painter(Path("pocket/weights/flux"))


def test_without_noise_a_picture_passes_through_the_vae_alone(painter):
    picture = np.asarray(Image.open("tests/data/pocket/coffee.png").convert("RGB"))[None]
    with torch.no_grad():
        pixels = torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1
        there_and_back = painter.vae(pixels).sample.clamp(-1, 1)
    expected = ((there_and_back + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    repainted = painter.repaint(painter.encode(picture).detach(), ["coffee"], 0.0, 1.0)
    assert np.abs(repainted - expected).max() <= 1


def test_disturbed_weights_come_back(painter):
    before = {name: p.clone() for name, p in painter.model.named_parameters()}
    with painter.disturbed(0.3):
        moved = sum(not torch.equal(before[name], p) for name, p in painter.model.named_parameters())
    assert moved > 20
    for name, p in painter.model.named_parameters():
        torch.testing.assert_close(p, before[name], atol=1e-6, rtol=0)


def test_severity_is_zero_for_the_true_picture_and_rises_with_what_differs():
    clean = np.full((64, 64, 3), 100, np.uint8)
    shown = clean.copy()
    shown[20:40, 20:40] += 30
    small = redraw.severity(clean, shown, area=30.0**2)
    shown[20:40, 20:40] += 30
    assert redraw.severity(clean, clean, area=30.0**2) == 0
    assert 2 * small == pytest.approx(redraw.severity(clean, shown, area=30.0**2))
    # twenty by twenty pixels of thirty by thirty differ by 30 of 255, but for the smoothing of their border
    assert small == pytest.approx(30 / 255 * 20 / 30 / redraw.FULL, rel=0.05)


def test_the_rater_sees_what_disturbed_weights_do_to_things(painter):
    scorer = build_scorer({"name": "unipercept", "path": "pocket/weights/unipercept"})
    noise = torch.randn(len(CAPTIONS), 64, 32, generator=torch.Generator().manual_seed(0))
    pictures = []
    for amount in (0.0, 0.35):
        torch.manual_seed(1)
        with painter.disturbed(amount):
            torch.manual_seed(2)
            pictures.append(painter.repaint(noise, CAPTIONS, 1.0, 2.5))
    well, badly = (scorer.score(list(group)).values.mean(0) for group in pictures)
    assert np.all(well > badly + 3), (well, badly)
