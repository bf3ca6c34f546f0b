"""The rating engine's options: what each changes, and that none changes what it must not."""

import numpy as np
import pytest
import torch

from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import ConfigError
from reward_plugin.images import to_rgb_each
from reward_plugin.internvl import RatingEngine
from reward_plugin.prompting import UNIPERCEPT_QUESTIONS
from tests.reward.golden import CHECKPOINT, expected


def engine(dtype: torch.dtype = torch.float32, **options) -> RatingEngine:
    return RatingEngine(load_checkpoint(CHECKPOINT, dtype=dtype), UNIPERCEPT_QUESTIONS, **options)


def two_answers(low: int, share: float) -> torch.Tensor:
    """Logits [101] of an answer that is `low` with probability 1 - share, else low + 1."""
    logits = torch.full((101,), -80.0)
    logits[low], logits[low + 1] = 0.0, float(np.log(share / (1 - share)))
    return logits


@pytest.mark.parametrize(
    ("low", "share", "exact", "published"),
    [
        (70, 0.30, 70.30, 70.5),  # steps of 0.5 from 64 on
        (70, 0.125, 70.125, 70.0),
        (40, 0.30, 40.30, 40.25),  # steps of 0.25 from 32 to 64
        (40, 0.40, 40.40, 40.5),
    ],
)
def test_published_precision_rounds_as_bfloat16_does(low, share, exact, published):
    logits = two_answers(low, share)
    plain, rounded = engine(torch.bfloat16), engine(torch.bfloat16, precision="published")
    assert float(plain.expectation(logits)) == pytest.approx(exact, abs=1e-4)
    assert float(rounded.expectation(logits)) == published


def test_published_precision_gives_bfloat16_steps_on_images():
    images, values = expected("scores")
    scores = engine(torch.bfloat16, precision="published").rate(to_rgb_each(images)[0])
    assert np.abs(scores - values).max() < 2
    step = 2.0 ** (np.floor(np.log2(scores)) - 7)  # bfloat16 keeps 8 bits
    np.testing.assert_array_equal(scores % step, 0)


def test_published_precision_changes_nothing_in_float32():
    images, _ = expected("scores")
    pictures = to_rgb_each(images[:2])[0]
    np.testing.assert_array_equal(engine().rate(pictures), engine(precision="published").rate(pictures))


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="precision 'bf16': write float32 or published"):
        engine(precision="bf16")
