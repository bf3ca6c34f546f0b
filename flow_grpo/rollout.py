"""Pictures and their scores: while one chunk is sampled, the chunk before it is being scored.

Shapes:  B samples of this process, W stochastic steps, S tokens, C channels, P prompts of this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flow_grpo.chunks import Identity, Sampler
from flow_grpo.chunks import Item as Item
from flow_grpo.handover import Clock, Handed, Handover
from flow_grpo.pace import APART, Pace
from flow_grpo.policy.base import Condition, Policy
from flow_grpo.prompts import Prompt
from flow_grpo.sample import Trajectory
from flow_grpo.sampler import Plan as Plan
from reward_plugin.combine import combine
from reward_plugin.errors import RewardError
from reward_plugin.types import Rewards as Rewards
from reward_plugin.types import ScoreTable


class ScoringFailed(RuntimeError):
    """Pictures could not be scored; the message says why. Nothing of the training state has changed."""


@dataclass(frozen=True)
class Scores:
    """Scores of B pictures in D dimensions, of which K have a weight.

    Attributes:
        dimensions: D names.
        values: float32 [B, D], NaN where missing.
        reward: float32 [B], NaN where a weighted dimension is missing.
        weighted: Columns of the K weighted dimensions.
        weights: float32 [K].
        errors: B reasons; None where every score is there.
    """

    dimensions: tuple[str, ...]
    values: np.ndarray
    reward: np.ndarray
    weighted: tuple[int, ...]
    weights: np.ndarray
    errors: tuple[str | None, ...]

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """The pictures of several processes, in order."""
        values, reward = (np.concatenate([getattr(p, name) for p in parts]) for name in ("values", "reward"))
        first, errors = parts[0], tuple(error for part in parts for error in part.errors)
        return Scores(first.dimensions, values, reward, first.weighted, first.weights, errors)

    def reason(self) -> str | None:
        """Why the first picture without a reward has none; None if all have one."""
        return next((e for e, r in zip(self.errors, self.reward, strict=True) if not np.isfinite(r)), None)

    def require_a_reward(self) -> None:
        """Refuse to go on where nothing was scored: every advantage would be 0, for as long as it lasts.

        Raises:
            ScoringFailed: Not one picture has a reward.
        """
        if not np.isfinite(self.reward).any():
            raise ScoringFailed(
                f"none of {len(self.reward)} pictures has a reward; the first reason: {self.reason()}"
            )

    def means(self) -> dict[str, float]:
        """Mean of the reward and of each dimension over the pictures that have it; NaN of nothing."""
        columns = {"reward": self.reward, **dict(zip(self.dimensions, self.values.T, strict=True))}
        present = {name: column[np.isfinite(column)] for name, column in columns.items()}
        return {
            name: float(column.mean()) if len(column) else float("nan") for name, column in present.items()
        }


@dataclass(frozen=True)
class Rollout:
    """Attributes:
    items: B pictures, in order.
    condition: Encoded prompts, P rows.
    trajectory: Of the B pictures.
    scores: Everything that was scored.
    images: uint8 [B, H, W, 3].
    seconds: Time for encode, sample, decode and score_wait.
    """

    items: Sequence[Item]
    condition: Condition
    trajectory: Trajectory
    scores: Scores
    images: np.ndarray
    seconds: dict[str, float]


def wait_ready(rewards: Rewards, timeout: float) -> None:
    """Wait until scoring can start.

    Raises:
        ScoringFailed: It cannot after `timeout` seconds, or never will.
    """
    try:
        rewards.wait_ready(timeout)
    except RewardError as error:
        raise ScoringFailed(str(error)) from error


def training_seed(seed: int, iteration: int) -> Identity:
    """Identity of a training picture's noise: new in each iteration."""
    return lambda prompt, member: (
        *(seed, "train", iteration, prompt.index),
        *(() if member is None else (member,)),
    )


def validation_seed(seed: int) -> Identity:
    """Identity of a validation picture's noise: the same in every validation."""
    return lambda prompt, member: (
        *(seed, "validation", prompt.index),
        *(() if member is None else (member,)),
    )


def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    items: Sequence[Item],
    plan: Plan,
    identity: Identity,
    rewards: Rewards,
    weights: Mapping[str, float],
    pace: Pace = APART,
) -> Rollout:
    """Sample, decode and score.

    Args:
        policy: The model, with the weights to sample with.
        prompts: P prompts.
        items: Which pictures of them.
        plan: How to sample.
        identity: What seeds the noise of (prompt, member).
        rewards: Scores the pictures.
        weights: Dimension -> weight in the reward.
        pace: Whether other processes make the same forward passes at the same time.

    Raises:
        ScoringFailed: The server is down, or the weights name an unknown dimension.
        NotFiniteSample: A velocity or a picture is not finite.
    """
    clock = Clock(policy.device)
    condition = policy.encode([prompt.text for prompt in prompts])
    sampler = Sampler(policy, prompts, condition, plan, identity)
    clock.mark("encode")
    trajectories: list[Trajectory] = []
    chunks = [items[start : start + plan.chunk] for start in range(0, len(items), plan.chunk)]
    with Handover(rewards.submit) as handover:
        sampler.run_prefix()
        for chunk in chunks:
            pace.before_chunk()
            trajectory = sampler.run(chunk)
            clock.mark("sample")
            handover.give(policy.pictures(trajectory.final), [prompts[item.row].text for item in chunk])
            clock.mark("decode")
            trajectories.append(trajectory)
        handed = handover.wait()
        wrong = [chunk for chunk, one in zip(chunks, handed, strict=True) if not one.finite]
        if pace.anywhere(bool(wrong)):
            located = sampler.locate(wrong[0] if wrong else chunks[0])
            if wrong:
                raise located
        with pace.waiting():
            scores = _collect(handed, weights)
    clock.mark("score_wait")
    images = np.concatenate([one.images for one in handed])
    return Rollout(items, condition, _concat(trajectories), scores, images, clock.seconds())


def _collect(handed: Sequence[Handed[ScoreTable]], weights: Mapping[str, float]) -> Scores:
    try:
        table = ScoreTable.concat([one.scores.result() for one in handed if one.scores is not None])
        combined = combine(table, weights)
    except RewardError as error:
        raise ScoringFailed(str(error)) from error
    pictures = sum(len(one.images) for one in handed)
    if len(table) != pictures:
        raise ScoringFailed(f"there are {len(table)} scores for {pictures} pictures")
    columns = tuple(table.dimensions.index(name) for name in combined.dimensions)
    return Scores(table.dimensions, table.values, combined.reward, columns, combined.weights, table.errors)


def _concat(parts: Sequence[Trajectory]) -> Trajectory:
    means = [part.mean for part in parts if part.mean is not None]
    return Trajectory(
        steps=parts[0].steps,
        kinds=parts[0].kinds,
        noise_levels=parts[0].noise_levels,
        x=torch.cat([part.x for part in parts]),
        x_next=torch.cat([part.x_next for part in parts]),
        log_prob=torch.cat([part.log_prob for part in parts]),
        mean=torch.cat(means) if means else None,
        final=torch.cat([part.final for part in parts]),
    )
