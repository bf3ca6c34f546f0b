"""Several scorers over one batch: pictures decoded once, columns put side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image

from reward_plugin.errors import ConfigError, RewardError, ScorerFailed
from reward_plugin.images import MAX_PIXELS, Exif, to_rgb, to_rgb_each
from reward_plugin.types import ImageLike, Scorer, ScoreTable


def score_all(
    scorers: Sequence[Scorer],
    images: Sequence[ImageLike],
    prompts: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    exif: Exif = "ignore",
) -> ScoreTable:
    """Score images with every scorer; an unreadable image is missing in all columns and costs only itself.

    Raises:
        ConfigError: the number of prompts is not the number of images.
        ScorerFailed: a scorer raised on the whole batch.
    """
    if prompts is not None and len(prompts) != len(images):
        raise ConfigError(
            f"{len(prompts)} prompts for {len(images)} images; give one prompt per image, or none"
        )
    good, errors = to_rgb_each(images, max_pixels, exif)
    return score_decoded(scorers, good, errors, prompts)


def score_decoded(
    scorers: Sequence[Scorer],
    good: Sequence[PIL.Image.Image | np.ndarray],
    errors: Sequence[str | None],
    prompts: Sequence[str] | None,
) -> ScoreTable:
    """Score a batch that is already decoded.

    Args:
        scorers: with different dimensions. One with a true attribute `takes_arrays` gets arrays as they are,
            the others get them as RGB images, made once for all of them.
        good: the readable pictures, in order: RGB images, or uint8 [H, W, 3] arrays.
        errors: one entry per item of the batch: None for a readable one, else the reason.
        prompts: one per item of the batch, or None.

    Raises:
        ScorerFailed: a scorer raised on the whole batch.
    """
    if prompts is not None:
        prompts = [prompt for prompt, error in zip(prompts, errors, strict=True) if error is None]
    pictures: list[PIL.Image.Image] | None = None
    tables = []
    for scorer in scorers:
        if getattr(scorer, "takes_arrays", False):
            tables.append(_score(scorer, good, prompts))
        else:
            pictures = [to_rgb(image) for image in good] if pictures is None else pictures
            tables.append(_score(scorer, pictures, prompts))
    return ScoreTable.merge(tables).scatter(errors)


def columns(table: ScoreTable, dimensions: Sequence[str]) -> ScoreTable:
    """Some columns of a table, in the given order; an error stays where one of them is missing."""
    values = np.stack([table.column(name) for name in dimensions], axis=1)
    missing = np.isnan(values).any(axis=1)
    errors = tuple(error if gap else None for error, gap in zip(table.errors, missing, strict=True))
    return ScoreTable(tuple(dimensions), values, errors)


def all_dimensions(scorers: Sequence[Scorer]) -> tuple[str, ...]:
    """Columns of several scorers, which must not share a name."""
    owners: dict[str, str] = {}
    for scorer in scorers:
        for dimension in scorer.dimensions:
            if dimension in owners:
                raise ConfigError(
                    f"scorers {owners[dimension]!r} and {scorer.name!r} both give {dimension!r}; "
                    "drop one of them"
                )
            owners[dimension] = scorer.name
    return tuple(owners)


def all_ranges(scorers: Sequence[Scorer]) -> Mapping[str, tuple[float, float]]:
    """Lowest and highest possible score of every dimension."""
    return {name: bounds for scorer in scorers for name, bounds in scorer.ranges.items()}


def _score(scorer: Scorer, images: Sequence[ImageLike], prompts: Sequence[str] | None) -> ScoreTable:
    if not images:
        return ScoreTable.computed(scorer.dimensions, [])
    try:
        return scorer.score(images, prompts)
    except RewardError:
        raise
    except Exception as error:
        raise ScorerFailed(f"scorer {scorer.name!r} failed: {type(error).__name__}: {error}") from error
