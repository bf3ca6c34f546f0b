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
from flow_grpo.policy.base import Policy
from flow_grpo.prompts import Prompt
from flow_grpo.rollout import Item, Plan, Rewards, Scores, rollout, validation_seed

if TYPE_CHECKING:
    from accelerate import Accelerator


def validate(
    policy: Policy, prompts: Sequence[Prompt], config: TrainConfig, rewards: Rewards, accelerator: Accelerator
) -> dict[str, float]:
    """Means of the reward and of every dimension, over the pictures of all processes; NaN scores are left
    out.

    Raises:
        ScoringFailed: On every process, when one of them could not score, or no picture has a reward.
    """
    settings = config.validation
    items = [Item(row, member) for row in range(len(prompts)) for member in range(settings.members)]
    # With fewer pictures than processes some make the last one too; it is dropped again below.
    mine = items[accelerator.process_index :: accelerator.num_processes] or items[-1:]
    plan = Plan(num_steps=settings.num_steps, chunk=config.sampler.chunk)
    identity = validation_seed(config.seed)
    result = agreed(lambda: rollout(policy, prompts, mine, plan, identity, rewards, config.reward.weights))
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
    return scores.means()


@dataclass
class KeepBest:
    """Which validation was the best among those allowed, and how long the bound has been broken.

    Attributes:
        before: Means before training, by dimension.
        best_reward: Validation reward of the weights that are kept.
        best_step: Their iteration.
        breaches: Consecutive validations in which the stop metric was beyond its bound.
    """

    before: dict[str, float] = field(default_factory=dict)
    best_reward: float | None = None
    best_step: int = 0
    breaches: int = 0

    def update(self, step: int, means: Mapping[str, float], config: StopConfig) -> bool:
        """Take note of a validation; true if its weights are the ones to keep."""
        if not self.before:
            self.before = dict(means)
        allowed = all(self._within(means, name, drop) for name, drop in config.floors.items())
        if config.metric is not None:
            within = self._within(means, config.metric, config.max_relative_drop)
            self.breaches = 0 if within else self.breaches + 1
            allowed = allowed and within
        reward = means["reward"]
        better = math.isfinite(reward) and (self.best_reward is None or reward > self.best_reward)
        if allowed and better:
            self.best_reward, self.best_step = reward, step
        return allowed and better

    def should_stop(self, config: StopConfig) -> bool:
        """Whether the stop metric has been beyond its bound for `patience` validations in a row."""
        return config.metric is not None and 0 < config.patience <= self.breaches

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def _within(self, means: Mapping[str, float], name: str, drop: float) -> bool:
        before = self.before[name]
        return means[name] >= before - drop * abs(before)
