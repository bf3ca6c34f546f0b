"""Statistics of paired scores and of the pictures of one prompt. Pure functions of arrays.

Shapes: N pairs (one per prompt and member), P prompts, M members of one prompt, R bootstrap resamples.

A pair is the same prompt and the same starting noise through both models, so everything is computed on the
difference within the pair. Members of one prompt are not independent of each other: the bootstrap draws
prompts, each with all of its members, and not single pictures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

# Resamples drawn at once; bounds the memory of the multinomial counts at thousands of prompts.
_CHUNK = 500
#: Of a distribution, as shares.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: Bootstrap resamples R.
        confidence: Coverage of the intervals, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: `resamples` below 1 or `confidence` outside (0, 1).
    """

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"bootstrap.resamples is {self.resamples}; it must be at least 1")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"bootstrap.confidence is {self.confidence}; it lies between 0 and 1, like 0.95")


DEFAULT_BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Comparison:
    """One dimension, tuned against base, over the pairs that both sides have a score for.

    Attributes:
        n: Pairs compared.
        missing: Pairs left out because either side has no score. They are counted, never filled in.
        base_mean: Mean over the compared pairs, in the dimension's own unit.
        tuned_mean: Likewise.
        difference: `tuned_mean - base_mean`.
        interval: Bootstrap percentile interval of `difference`; None with fewer than two prompts.
        relative: `difference / |base_mean|`; None where the base mean is zero.
        relative_interval: Bootstrap percentile interval of `relative`; None like either of them.
        win_rate: Share of pairs in which tuned is higher; a tie counts as half a win.
        wins: Pairs in which tuned is higher by more than the tolerance.
        ties: Pairs that differ by no more than the tolerance.
        losses: Pairs in which base is higher by more than the tolerance.
    """

    n: int
    missing: int
    base_mean: float | None
    tuned_mean: float | None
    difference: float | None
    interval: tuple[float, float] | None
    relative: float | None
    relative_interval: tuple[float, float] | None
    win_rate: float | None
    wins: int
    ties: int
    losses: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def compare(
    base: np.ndarray,
    tuned: np.ndarray,
    prompts: np.ndarray,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    tolerance: float = 1e-6,
) -> Comparison:
    """Everything that is reported about one dimension.

    Args:
        base: Scores of the base model [N], NaN where missing.
        tuned: Scores of the tuned model on the same pairs [N], NaN where missing.
        prompts: Prompt index of each pair [N]; pairs of one prompt are resampled together.
        bootstrap: How the intervals are made.
        tolerance: Differences up to this are ties.

    Raises:
        ValueError: The three arrays do not have the same one-dimensional shape.
    """
    base, tuned, prompts = _aligned(base, tuned, prompts)
    valid = np.isfinite(base) & np.isfinite(tuned)
    missing = int(len(valid) - valid.sum())
    base, tuned, prompts = base[valid], tuned[valid], prompts[valid]
    if not len(base):
        return Comparison(0, missing, None, None, None, None, None, None, None, 0, 0, 0)
    base_mean, tuned_mean = float(base.mean()), float(tuned.mean())
    difference = float((tuned - base).mean())
    interval, relative_interval = paired_bootstrap(base, tuned, prompts, bootstrap)
    wins, ties, losses = outcomes(base, tuned, tolerance)
    return Comparison(
        n=len(base),
        missing=missing,
        base_mean=base_mean,
        tuned_mean=tuned_mean,
        difference=difference,
        interval=interval,
        relative=difference / abs(base_mean) if base_mean else None,
        relative_interval=relative_interval if base_mean else None,
        win_rate=(wins + 0.5 * ties) / len(base),
        wins=wins,
        ties=ties,
        losses=losses,
    )


def paired_bootstrap(
    base: np.ndarray, tuned: np.ndarray, prompts: np.ndarray, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Percentile intervals of the mean difference and of the relative change.

    The cluster bootstrap (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8): prompts are drawn with
    replacement, each brings all of its members, and the statistic is the mean over all pairs drawn. With one
    member per prompt it is the ordinary paired bootstrap.

    Args:
        base: Scores of the base model [N], finite.
        tuned: Scores of the tuned model [N], finite.
        prompts: Prompt index of each pair [N].
        bootstrap: How the intervals are made.

    Returns:
        Interval of the mean of `tuned - base`, and interval of that mean over the absolute mean of `base`.
        Both None with fewer than two prompts; the second None where a resampled base mean is zero.
    """
    resamples, confidence = bootstrap.resamples, bootstrap.confidence
    _, cluster = np.unique(prompts, return_inverse=True)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    if count < 2:
        return None, None
    # Per prompt: sum of differences, sum of base scores, number of pairs. A resample is a vector of counts.
    sums = np.stack([np.bincount(cluster, weights=w, minlength=count) for w in (tuned - base, base)])
    sizes = np.bincount(cluster, minlength=count).astype(float)
    counts = _draws(count, resamples, bootstrap.seed)
    differences, bases = np.empty(resamples), np.empty(resamples)
    for start in range(0, resamples, _CHUNK):
        drawn = counts[start : start + _CHUNK].astype(float)
        total = drawn @ sizes
        differences[start : start + len(drawn)] = drawn @ sums[0] / total
        bases[start : start + len(drawn)] = drawn @ sums[1] / total
    relative = None if (bases == 0).any() else _percentiles(differences / np.abs(bases), confidence)
    return _percentiles(differences, confidence), relative


def outcomes(base: np.ndarray, tuned: np.ndarray, tolerance: float = 1e-6) -> tuple[int, int, int]:
    """Wins, ties and losses of `tuned` over the pairs [N]."""
    difference = np.asarray(tuned, dtype=float) - np.asarray(base, dtype=float)
    wins, losses = int((difference > tolerance).sum()), int((difference < -tolerance).sum())
    return wins, len(difference) - wins - losses, losses


def describe(values: np.ndarray) -> dict[str, Any]:
    """The distribution of one dimension on one side.

    Args:
        values: Scores [N], NaN where missing.

    Returns:
        `n`, `missing`, `mean`, `std` (of the sample, n - 1) and `quantiles` at QUANTILES; None where there
        are too few values for them.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[np.isfinite(values)]
    return {
        "n": len(known),
        "missing": len(values) - len(known),
        "mean": float(known.mean()) if len(known) else None,
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "quantiles": np.quantile(known, QUANTILES).tolist() if len(known) else None,
    }


def diversity(images: np.ndarray) -> float:
    """How different the pictures of one prompt are: mean pairwise distance of their pixels.

    Args:
        images: [M, H, W, 3], values 0..255, already reduced to a small size so that texture counts little.

    Returns:
        Mean over pairs of the root mean square pixel distance, in percent of the value range: 0 where all are
        alike, about 41 between pictures of uniform noise. NaN with fewer than two pictures.
    """
    if len(images) < 2:
        return float("nan")
    first, second = np.triu_indices(len(images), k=1)
    return float(np.mean([pixel_distance(images[i], images[j]) for i, j in zip(first, second, strict=True)]))


def pixel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square difference of two pictures with values 0..255, in percent of the value range."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(np.sqrt(np.mean(difference**2)) / 255.0 * 100.0)


@lru_cache(maxsize=8)
def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """How often each prompt is drawn in each resample, uint16 [R, count]; the same for every dimension."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, count), dtype=np.uint16)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn[start : start + size] = rng.multinomial(count, np.full(count, 1.0 / count), size=size)
    return drawn


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def _aligned(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    base, tuned, prompts = (np.asarray(array) for array in arrays)
    if base.ndim != 1 or base.shape != tuned.shape or base.shape != prompts.shape:
        shapes = ", ".join(str(array.shape) for array in (base, tuned, prompts))
        raise ValueError(f"base, tuned and prompts must be one-dimensional and equally long, got {shapes}")
    return base.astype(np.float64), tuned.astype(np.float64), prompts
