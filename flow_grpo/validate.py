"""Validation on held-out prompts while training, which weights to keep by it, and when to stop.

Pictures are made as a user would make them: averaged weights, the ODE, more steps than in training, and noise
that is the same each time, so that two validations differ by the weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flow_grpo.config import StopConfig, TrainConfig
from flow_grpo.distributed import agreed, gather
from flow_grpo.pace import pace_of
from flow_grpo.policy.base import Policy
from flow_grpo.prompts import Prompt
from flow_grpo.rollout import Item, Plan, Rewards, Scores, rollout, validation_seed

if TYPE_CHECKING:
    from accelerate import Accelerator


def validate(
    policy: Policy, prompts: Sequence[Prompt], config: TrainConfig, rewards: Rewards, accelerator: Accelerator
) -> Validation:
    """The reward and every dimension, over the pictures of all processes; NaN scores are left out.

    Raises:
        ScoringFailed: On every process, when one of them could not score, or no picture has a reward.
    """
    settings = config.validation
    items = [Item(row, member) for row in range(len(prompts)) for member in range(settings.members)]
    # With fewer pictures than processes some make the last one too, and with a split model all make as many;
    # what is made twice counts once, see below.
    pace = pace_of(accelerator)
    mine = pace.padded(items[accelerator.process_index :: accelerator.num_processes] or items[-1:])
    plan = Plan(num_steps=settings.num_steps, chunk=config.sampler.chunk)
    identity = validation_seed(config.seed)
    weights = config.reward.weights
    result = agreed(lambda: rollout(policy, prompts, mine, plan, identity, rewards, weights, pace), pace)
    own = result.scores
    unique = {
        row[0]: row[1:] for row in gather(list(zip(mine, own.values, own.reward, own.errors, strict=True)))
    }
    assert len(unique) == len(items)
    values, reward, errors = zip(*(unique[item] for item in items), strict=True)
    scores = Scores(
        own.dimensions, np.stack(values), np.array(reward), own.weighted, own.weights, tuple(errors)
    )
    scores.require_a_reward()
    rows = np.array([item.row for item in items])
    return Validation(
        scores.means(),
        {name: by_prompt(column, rows) for name, column in zip(own.dimensions, scores.values.T, strict=True)},
    )


def by_prompt(column: np.ndarray, rows: np.ndarray) -> list[float]:
    """Mean of each prompt's pictures, in order; NaN where none has a score.

    Args:
        column: [N] scores, NaN where missing.
        rows: int [N], the prompt of each picture, counted from 0.
    """
    present = np.isfinite(column)
    sums = np.bincount(rows, weights=np.where(present, column, 0.0))
    counts = np.bincount(rows, weights=present)
    means: list[float] = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0).tolist()
    return means


def surely_below(now: Sequence[float], before: Sequence[float], drop: float, confidence: float) -> bool:
    """Whether the mean has fallen by more than `drop`, relative to the size of the mean before, beyond doubt.

    The bound is linear in both means, so every prompt has its own distance from it, now - before + drop
    before (for a mean before above 0), and past the bound the mean of these is below 0. The upper end of its
    one-sided Student interval has to be below 0, too. Prompts without a score on both sides are left out.

    Args:
        now: Mean of each prompt [P].
        before: The same prompts before training [P].
        drop: Allowed relative fall.
        confidence: Of being right when nothing has changed beyond the bound, such as 0.95.

    Returns:
        Also true if nothing can be measured; false with one prompt alone.
    """
    from scipy.special import stdtrit

    pairs = np.array([now, before], dtype=np.float64)
    after, base = pairs[:, np.isfinite(pairs).all(axis=0)]
    if not len(base):
        return True
    distance = after - base + drop * np.sign(base.mean()) * base
    if len(base) < 2:
        return False
    error = distance.std(ddof=1) / math.sqrt(len(base))
    return bool(distance.mean() + stdtrit(len(base) - 1, confidence) * error < 0)


@dataclass(frozen=True)
class Validation:
    """Attributes:
    means: Of the reward and of every dimension, over all pictures.
    by_prompt: Dimension -> mean of each held-out prompt's pictures.
    """

    means: dict[str, float]
    by_prompt: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class KeepBest:
    """Which validation was the best among those allowed, and how long the bound has been broken.

    Attributes:
        before: Means before training, by dimension.
        best_reward: Validation reward of the weights that are kept.
        best_step: Their iteration.
        breaches: Consecutive validations in which a metric was beyond its bound.
        broken: Those metrics in the last validation.
        prompts_before: Dimension -> each prompt's mean before training, of bounded ones if `stop.confidence`
            is set.
    """

    before: dict[str, float] = field(default_factory=dict)
    best_reward: float | None = None
    best_step: int = 0
    breaches: int = 0
    broken: list[str] = field(default_factory=list)
    prompts_before: dict[str, list[float]] = field(default_factory=dict)

    def update(self, step: int, found: Validation, config: StopConfig) -> bool:
        """Take note of a validation; true if its weights are the ones to keep."""
        means, bounds = found.means, config.all_bounds()
        if not self.before:
            self.before = dict(means)
            if config.confidence is not None:
                self.prompts_before = {name: found.by_prompt[name] for name in bounds}
        limits = [*config.floors.items(), *bounds.items()]
        allowed = all(self._within(means, name, drop) for name, drop in limits)
        self.broken = [name for name, drop in bounds.items() if self._beyond(found, name, drop, config)]
        self.breaches = self.breaches + 1 if self.broken else 0
        reward = means["reward"]
        better = math.isfinite(reward) and (self.best_reward is None or reward > self.best_reward)
        if allowed and better:
            self.best_reward, self.best_step = reward, step
        return allowed and better

    def should_stop(self, config: StopConfig) -> bool:
        """Whether in `patience` validations in a row a metric was beyond its bound."""
        return 0 < config.patience <= self.breaches

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def _beyond(self, found: Validation, name: str, drop: float, config: StopConfig) -> bool:
        if config.confidence is None:
            return not self._within(found.means, name, drop)
        return surely_below(found.by_prompt[name], self.prompts_before[name], drop, config.confidence)

    def _within(self, means: Mapping[str, float], name: str, drop: float) -> bool:
        before = self.before[name]
        return means[name] >= before - drop * abs(before)
