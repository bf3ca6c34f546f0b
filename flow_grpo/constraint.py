"""Held-out dimensions as constraints with a Lagrange weight each, instead of terms of the reward.

A constrained Markov decision process (Altman 1999): maximise E[reward] subject to, for each constrained
dimension c, E[c] >= (1 - max_relative_drop) E_base[c]. Its Lagrangian is E[reward] + sum_c lambda_c (E[c] -
bound_c): the policy climbs it, lambda descends. That is PPO-Lagrangian (Ray, Achiam and Amodei, Benchmarking
Safe Exploration in Deep RL, 2019), and for composite reward models Moskovitz et al. 2023 (arXiv 2310.04373).
Here:

* drop_c = 1 - mean c / mean c of the base, over the same prompts and noise of this iteration's rollout: the
  base, that is the model without adapters, samples the first `base_members` members of each group once more.
  Pictures that differ by the weights alone tell a drop of 1 % from a few dozen of them.
* lambda_c <- min(max_weight, max(0, lambda_c + rate (drop_c / max_relative_drop - 1))), once an iteration,
  before its advantages. Projection onto an interval, not Ray's softplus nor Moskovitz' sigmoid, lets it be
  exactly 0 while all is well, and it cannot run away.
* It does wind up: one drop far past the bound adds what takes many iterations to sink again. `max_rise`
  bounds what an iteration adds (not in the formula); `proportional` answers a drop at once and is gone
  with it. Together they are the PI control of Stooke, Achiam and Abbeel 2020 (arXiv 2007.03964, section 4).
* In the advantages the dimension is one more, with lambda_c as its weight: added to the reward with
  sum_then_normalize, in units of its own standard deviation with normalize_then_sum. Both divide by a
  standard deviation that grows with lambda, so no step does, and Moskovitz' factor 1 / (1 + lambda) would
  change nothing; it would with `std: none`, where lambda makes larger steps.
* With `held_by: kl` the advantages stay the reward's, and the KL to the reference weighs 1 + sum of lambda_c
  times as much. What lowers adherence is mostly a drift that all members of a group share, of which
  differences within a group tell little; the KL acts on the drift itself. It is the adaptive KL of Ziegler et
  al. 2019 (arXiv 1909.08593, section 2.2) with a held-out dimension to hold instead of a value of the KL.

metrics.jsonl has lambda/c, what c weighs in the iteration, and drop/c. The reward it shows is without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Constraint:
    """How far a dimension may fall, and how hard it is held.

    Attributes:
        max_relative_drop: Largest fall relative to the base that is free, such as 0.015. Greater than 0.
        rate: What lambda gains in an iteration at twice the allowed drop, and loses at none.
        start: lambda in the first iteration.
        max_weight: Its upper bound.
        max_rise: The most that lambda gains in an iteration, however large the drop.
        proportional: Times drop_c / max_relative_drop - 1, where that is above 0, it is added to lambda for
            this iteration alone.
        base_members: Pictures of each group that the base makes, too; of several constraints the most count.
        held_by: reward: lambda is the dimension's weight in the advantages. kl: 1 + lambda multiplies
            `regularizer.kl_weight`, which must not be 0 then.
    """

    max_relative_drop: float
    rate: float = 0.1
    start: float = 0.0
    max_weight: float = 10.0
    max_rise: float | None = None
    proportional: float = 0.0
    base_members: int = 2
    held_by: Literal["reward", "kl"] = "reward"


@dataclass(frozen=True)
class Held:
    """What an iteration's constraints amount to.

    Attributes:
        multipliers: Dimension -> lambda, which the next iteration starts from.
        weights: Dimension -> what it weighs now.
        metrics: Of metrics.jsonl.
    """

    multipliers: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def respond(
    rules: Mapping[str, Constraint], multipliers: Mapping[str, float], drops: Mapping[str, float]
) -> Held:
    """Move each lambda, from `multipliers` or its start, by how far its dimension has dropped."""
    moved = {
        name: ascend(multipliers.get(name, rule.start), drops[name], rule) for name, rule in rules.items()
    }
    weights = {name: answer(moved[name], drops[name], rule) for name, rule in rules.items()}
    metrics = {f"lambda/{name}": weight for name, weight in weights.items()}
    return Held(moved, weights, metrics | {f"drop/{name}": drop for name, drop in drops.items()})


def ascend(weight: float, drop: float, constraint: Constraint) -> float:
    """lambda after one step of dual ascent; as it was where the drop is not known (NaN)."""
    if math.isnan(drop):
        return weight
    rise = constraint.rate * _excess(drop, constraint)
    if constraint.max_rise is not None:
        rise = min(rise, constraint.max_rise)
    return min(constraint.max_weight, max(0.0, weight + rise))


def answer(weight: float, drop: float, constraint: Constraint) -> float:
    """What the constraint weighs in this iteration: lambda and what is proportional to the excess."""
    excess = 0.0 if math.isnan(drop) else max(0.0, _excess(drop, constraint))
    return min(constraint.max_weight, weight + constraint.proportional * excess)


def _excess(drop: float, constraint: Constraint) -> float:
    """0 at the bound, 1 at twice the allowed drop, -1 at no drop."""
    return drop / constraint.max_relative_drop - 1.0


def relative_drop(pairs: np.ndarray) -> float:
    """1 - mean now / mean of the base; for a base below 0, by how much of its size it fell.

    Args:
        pairs: [N, 2], now and base, NaN where missing; a pair with either missing is left out.
    """
    pairs = pairs[np.isfinite(pairs).all(axis=1)].astype(np.float64)
    if not len(pairs):
        return float("nan")
    now, base = pairs.mean(axis=0)
    return float((base - now) / abs(base)) if base else float("nan")


def held_by(rules: Mapping[str, Constraint], weights: Mapping[str, float], means: str) -> dict[str, float]:
    """The weights of the constraints that are held by `means`."""
    return {name: weight for name, weight in weights.items() if rules[name].held_by == means}


def weighed(
    values: np.ndarray,
    dimensions: Sequence[str],
    weighted: Sequence[int],
    weights: np.ndarray,
    multipliers: Mapping[str, float],
) -> tuple[np.ndarray, np.ndarray]:
    """What advantages are made of: the weighted dimensions, then every constraint whose lambda is not 0.

    Args:
        values: [N, D] scores.
        dimensions: D names.
        weighted: Columns of the K weighted dimensions.
        weights: [K].
        multipliers: Dimension -> lambda.

    Returns:
        Scores [N, K + C] and weights [K + C].
    """
    active = {name: weight for name, weight in multipliers.items() if weight}
    columns = [*weighted, *(dimensions.index(name) for name in active)]
    return values[:, columns], np.array([*weights, *active.values()], dtype=np.float32)
