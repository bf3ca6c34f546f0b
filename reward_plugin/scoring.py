"""Several scorers over one batch: pictures decoded once, columns put side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reward_plugin.errors import ConfigError, RewardError, ScorerFailed
from reward_plugin.images import MAX_PIXELS, Exif, to_rgb_each
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
    if prompts is not None:
        prompts = [prompt for prompt, error in zip(prompts, errors, strict=True) if error is None]
    return ScoreTable.merge([_score(scorer, good, prompts) for scorer in scorers]).scatter(errors)


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
