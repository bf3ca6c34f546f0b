"""What each dimension weighs in an iteration, and what each did there: pure functions, logged each iteration.

Names in metrics.jsonl, for every dimension d that was scored, weighted or not:

reward/d or d    mean over the iteration's pictures; with the prefix if d can have a weight
std/d            population standard deviation over them
p10/d, p90/d     10th and 90th percentile
correlation/d    with the reward, within groups: both minus their group's mean. It is what the advantages
                 select for: a held-out dimension that stays negative is being paid for the reward, usually
                 iterations before its mean falls.
weight/d         weight in the reward, of dimensions that can have one

Percentiles and deviations are over the pictures that have the score; without any they are null.

Shapes: N pictures of all processes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ramp:
    """A weight that moves while training, linearly in iterations, to the one in reward.weights.

    Validation, which compares weights of different iterations, always has the weights of the end.

    Attributes:
        start: Weight up to iteration `begin`.
        end: From this iteration on the weight is that of reward.weights. Counted from 0.
        begin: See start.
    """

    start: float
    end: int
    begin: int = 0

    def at(self, iteration: int, final: float) -> float:
        """The weight in an iteration, counted from 0, on the way to `final`."""
        progress = (iteration - self.begin) / (self.end - self.begin)
        return self.start + (final - self.start) * min(1.0, max(0.0, progress))


def weights_at(weights: Mapping[str, float], ramps: Mapping[str, Ramp], iteration: int) -> dict[str, float]:
    """Dimension -> weight in an iteration, counted from 0."""
    names = dict.fromkeys([*weights, *ramps])
    final = {name: float(weights.get(name, 0.0)) for name in names}
    return {name: ramps[name].at(iteration, final[name]) if name in ramps else final[name] for name in names}


def statistics(
    values: np.ndarray, names: Sequence[str], reward: np.ndarray, groups: np.ndarray
) -> dict[str, float]:
    """Spread of every dimension, and its correlation with the reward; the names are in this file's head.

    Args:
        values: [N, D] scores, NaN where missing.
        names: D dimensions.
        reward: [N], NaN where missing.
        groups: int [N], the prompt's index.
    """
    found: dict[str, float] = {}
    for name, column in zip(names, values.T, strict=True):
        present = column[np.isfinite(column)].astype(np.float64)
        low, high = np.percentile(present, [10, 90]) if len(present) else (np.nan, np.nan)
        found[f"std/{name}"] = float(present.std()) if len(present) else float("nan")
        found[f"p10/{name}"], found[f"p90/{name}"] = float(low), float(high)
        found[f"correlation/{name}"] = within_groups(column, reward, groups)
    return found


def within_groups(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> float:
    """Correlation of two columns [N], each minus its group's mean, over the rows that have both.

    NaN where one of them does not vary.
    """
    both = np.isfinite(first) & np.isfinite(second)
    index = np.unique(groups[both], return_inverse=True)[1]
    a, b = (_centred(column[both].astype(np.float64), index) for column in (first, second))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1.0, 1.0)) if scale > 1e-12 * max(1, len(a)) else float("nan")


def _centred(column: np.ndarray, index: np.ndarray) -> np.ndarray:
    if not len(column):
        return column
    mean: np.ndarray = np.bincount(index, weights=column) / np.bincount(index)
    return column - mean[index]
