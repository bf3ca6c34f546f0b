"""How well a ranking finds a query's object: mean average precision of revisited Oxford and Paris. Pure.

Radenović et al., "Revisiting Oxford and Paris", arXiv 1803.11285, section 3.4, computed as their published
evaluation does: junk is taken out of the ranking before positions are counted, and the area under precision
over recall is summed in trapezoids, where plain average precision takes the precision at each hit.

Shapes: G gallery pictures, Q queries, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

#: Of gallery pictures.
Indices: TypeAlias = Sequence[int] | np.ndarray


def average_precision(order: np.ndarray, positives: Indices, junk: Indices = ()) -> float:
    """Area under the curve of precision over recall of one query.

    The i-th positive (from 0), which stands behind `before` other pictures of which i are positive, adds the
    mean of the precision just before it and at it: (i / before + (i + 1) / (before + 1)) / 2, divided by the
    number of positives. The precision before the first place is 1.

    Args:
        order: The gallery's indices, best first [G]; a positive that is not in it adds nothing.
        positives: Indices that should come first.
        junk: Indices that count neither for nor against.

    Returns:
        0 to 1; NaN without positives.
    """
    if not len(positives):
        return float("nan")
    seen = order[~np.isin(order, np.asarray(junk, dtype=int))]
    before = np.flatnonzero(np.isin(seen, np.asarray(positives, dtype=int)))
    found = np.arange(len(before))
    precision_before = np.where(before == 0, 1.0, found / np.maximum(before, 1))
    precision_at = (found + 1) / (before + 1)
    return float(((precision_before + precision_at) / 2).sum() / len(positives))


def medium_and_hard(
    order: np.ndarray, easy: Sequence[int], hard: Sequence[int], junk: Sequence[int]
) -> tuple[float, float]:
    """Average precision of one query in the two settings that UniSim-Bench averages.

    Medium: easy and hard pictures are positives. Hard: hard ones are, and easy ones count as junk.

    Returns:
        Both, NaN where a setting has no positive.
    """
    return (
        average_precision(order, [*easy, *hard], junk),
        average_precision(order, hard, [*junk, *easy]),
    )


def mean_of_settings(precisions: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """mAP of each setting over the queries that have a positive in it, and the mean of both.

    Args:
        precisions: Medium and hard of each query [Q, 2], NaN where a setting has no positive.

    Returns:
        Medium, hard, and their mean; None where no query has one.
    """
    medium, hard = (_mean(column) for column in precisions.T)
    both = None if medium is None or hard is None else (medium + hard) / 2
    return medium, hard, both


def resampled(
    precisions: np.ndarray, confidence: float, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the mean of both settings, queries drawn with replacement.

    Args:
        precisions: As in `mean_of_settings` [Q, 2].
        confidence: Coverage, in (0, 1).
        resamples: R.
        seed: Of the draws.

    Returns:
        None with fewer than two queries, or where no query has a positive in one of the settings.
    """
    if len(precisions) < 2 or mean_of_settings(precisions)[2] is None:
        return None
    drawn = np.random.default_rng(seed).integers(len(precisions), size=(resamples, len(precisions)))
    there = np.isfinite(precisions)
    sums, counts = np.where(there, precisions, 0.0)[drawn].sum(axis=1), there[drawn].sum(axis=1)
    kept = (counts > 0).all(axis=1)  # a draw of queries without a positive has no mAP
    if not kept.any():
        return None
    means = (sums[kept] / counts[kept]).mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _mean(values: np.ndarray) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None
