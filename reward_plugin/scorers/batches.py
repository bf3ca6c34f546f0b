"""What scorers of pictures, and of pictures with prompts, share: items that cannot be scored step aside, the
rest goes through the model in batches.

A prompt that is None, empty or only spaces counts as none given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reward_plugin.errors import ConfigError
from reward_plugin.images import to_rgb_each
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import PIL.Image

#: Longer side over shorter side. Most of these models bring the shorter side to 224 pixels or more before
#: they crop: that makes a picture of 1 x 60,000 one of 3 billion pixels.
MAX_ASPECT = 1000
#: Pictures to their scores, [n] or [n, D].
RateImages = Callable[[Sequence["PIL.Image.Image"]], npt.ArrayLike]
#: Pictures and one text each to their scores, [n] or [n, D].
RatePairs = Callable[[Sequence["PIL.Image.Image"], Sequence[str]], npt.ArrayLike]


def check_batch_size(batch_size: int) -> int:
    """`batch_size`, which must be at least 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: must be at least 1")
    return batch_size


def score_images(
    images: Sequence[ImageLike], dimensions: Sequence[str], batch_size: int, rate: RateImages
) -> ScoreTable:
    """Score pictures alone; one that is unreadable, or too long, is missing and says why."""
    good, errors = fit_each(images)
    chunks = [np.asarray(rate(good[i : i + batch_size])) for i in range(0, len(good), batch_size)]
    return ScoreTable.computed(dimensions, np.concatenate(chunks) if chunks else []).scatter(errors)


def score_pairs(
    images: Sequence[ImageLike],
    prompts: Sequence[str] | None,
    dimensions: Sequence[str],
    batch_size: int,
    rate: RatePairs,
    no_prompt: str,
) -> ScoreTable:
    """Score each picture with its prompt; one that is unreadable or too long, or has no prompt, is missing.

    Args:
        no_prompt: the reason that an item without a prompt gets.
    """
    good, errors = fit_each(images)
    texts = list(prompts) if prompts is not None else [""] * len(errors)
    pictures = iter(good)
    pairs = []
    for i, (text, error) in enumerate(zip(texts, errors, strict=True)):
        if error is None:
            picture = next(pictures)
            if text and text.strip():
                pairs.append((picture, text))
            else:
                errors[i] = no_prompt
    chunks = [
        np.asarray(rate(*zip(*pairs[i : i + batch_size], strict=True)))
        for i in range(0, len(pairs), batch_size)
    ]
    return ScoreTable.computed(dimensions, np.concatenate(chunks) if chunks else []).scatter(errors)


def fit_each(
    images: Sequence[ImageLike], max_aspect: int = MAX_ASPECT
) -> tuple[list[PIL.Image.Image], list[str | None]]:
    """As `to_rgb_each`, without pictures that preparing them would blow up."""
    good, errors = to_rgb_each(images)
    at = [i for i, error in enumerate(errors) if error is None]
    for i, picture in zip(at, good, strict=True):
        if max(picture.size) > max_aspect * min(picture.size):
            width, height = picture.size
            errors[i] = f"{width}x{height}: one side is over {max_aspect} times the other; crop it first"
    return [picture for i, picture in zip(at, good, strict=True) if errors[i] is None], errors
