"""Pictures and their scores: while one chunk is sampled, the chunk before it is being scored.

Shapes:  B samples of this process, W stochastic steps, S tokens, C channels, P prompts of this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from flow_grpo.noise import normal, seed_of
from flow_grpo.policy.base import Condition, Policy
from flow_grpo.prompts import Prompt
from flow_grpo.sample import Trajectory, sample
from flow_grpo.sde import Kind
from reward_plugin.combine import combine
from reward_plugin.errors import RewardError
from reward_plugin.types import Rewards as Rewards
from reward_plugin.types import ScoreTable


class ScoringFailed(RuntimeError):
    """Pictures could not be scored; the message says why. Nothing of the training state has changed."""


@dataclass(frozen=True)
class Plan:
    """How to sample.

    Attributes:
        num_steps: Transformer evaluations.
        stochastic: Steps that get noise; empty: ODE.
        noise_level: Of those steps.
        kind: Of those steps.
        keep_mean: Keep transition means.
        chunk: Pictures sampled together.
    """

    num_steps: int
    stochastic: Sequence[int] = ()
    noise_level: float = 0.0
    kind: Kind = "flow_sde"
    keep_mean: bool = False
    chunk: int = 16


@dataclass(frozen=True)
class Item:
    """One picture to make: the row-th of the given prompts, the member-th picture of it."""

    row: int
    member: int


@dataclass
class Seconds:
    """Time spent in each phase."""

    phases: dict[str, float] = field(default_factory=dict)

    def measure(self, phase: str, start: float) -> float:
        """Add the time since `start` to a phase and return now."""
        now = time.perf_counter()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - start
        return now


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


def training_seed(seed: int, iteration: int) -> Callable[[Prompt, int], tuple[int | str, ...]]:
    """Identity of a training picture's noise: new in each iteration."""
    return lambda prompt, member: (seed, "train", iteration, prompt.index, member)


def validation_seed(seed: int) -> Callable[[Prompt, int], tuple[int | str, ...]]:
    """Identity of a validation picture's noise: the same in every validation."""
    return lambda prompt, member: (seed, "validation", prompt.index, member)


def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    items: Sequence[Item],
    plan: Plan,
    identity: Callable[[Prompt, int], tuple[int | str, ...]],
    rewards: Rewards,
    weights: Mapping[str, float],
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

    Raises:
        ScoringFailed: The server is down, or the weights name an unknown dimension.
    """
    seconds, now = Seconds(), time.perf_counter()
    condition = policy.encode([prompt.text for prompt in prompts])
    sigmas = policy.sigmas(plan.num_steps)
    now = seconds.measure("encode", now)
    trajectories: list[Trajectory] = []
    images: list[np.ndarray] = []
    futures: list[Future[ScoreTable]] = []
    for start in range(0, len(items), plan.chunk):
        chunk = items[start : start + plan.chunk]
        seeds = [seed_of(*identity(prompts[item.row], item.member)) for item in chunk]
        trajectory = _sample_chunk(policy, chunk, condition, sigmas, plan, seeds)
        now = seconds.measure("sample", now)
        pictures = policy.decode(trajectory.final)
        futures.append(rewards.submit(list(pictures), [prompts[item.row].text for item in chunk]))
        now = seconds.measure("decode", now)
        trajectories.append(trajectory)
        images.append(pictures)
    scores = _collect(futures, weights)
    seconds.measure("score_wait", now)
    return Rollout(items, condition, _concat(trajectories), scores, np.concatenate(images), seconds.phases)


def _collect(futures: Sequence[Future[ScoreTable]], weights: Mapping[str, float]) -> Scores:
    try:
        table = ScoreTable.concat([future.result() for future in futures])
        combined = combine(table, weights)
    except RewardError as error:
        raise ScoringFailed(str(error)) from error
    columns = tuple(table.dimensions.index(name) for name in combined.dimensions)
    return Scores(table.dimensions, table.values, combined.reward, columns, combined.weights, table.errors)


def _sample_chunk(
    policy: Policy,
    chunk: Sequence[Item],
    condition: Condition,
    sigmas: torch.Tensor,
    plan: Plan,
    seeds: Sequence[int],
) -> Trajectory:
    rows = torch.tensor([item.row for item in chunk], device=policy.device)
    batch = condition.take(rows)
    noise = None
    if plan.stochastic:
        # Another generator than the starting noise's, so that what a step adds is independent of it.
        step_seeds = [seed_of(seed, "steps") for seed in seeds]
        noise = normal(step_seeds, (len(plan.stochastic), *policy.latent_shape)).to(policy.device)
    return sample(
        lambda x, sigma: policy.velocity(x, sigma, batch),
        policy.initial_noise(seeds),
        sigmas,
        stochastic=plan.stochastic,
        noise_level=plan.noise_level,
        noise=noise,
        kind=plan.kind,
        keep_mean=plan.keep_mean,
    )


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
