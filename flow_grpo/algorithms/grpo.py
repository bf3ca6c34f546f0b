"""Flow-GRPO's clipped objective (Liu et al. 2025, arXiv 2505.05470).

ratio = exp(log_prob - old_log_prob); loss = mean of max(-A ratio, -A clip(ratio, 1 - range, 1 + range)).
Clip ranges are tiny (1e-4) because a log-probability is a mean over thousands of latent dims, not a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Config:
    """Attributes:
    clip_range: How far the ratio may move from 1 before its gradient stops; with several updates per rollout.
    """

    clip_range: float = 1e-4

    needs_trajectory: ClassVar[bool] = True
    needs_old_mean: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("flow_sde", "cps", "dance_sde")


@dataclass(frozen=True)
class Inputs:
    """One micro-batch of B (sample, step) pairs.

    Attributes:
        log_prob: [B], under the policy of now, with gradient.
        old_log_prob: [B], under the policy that sampled.
        advantage: [B].
        mean: [B, ...], transition mean of now, with gradient.
        old_mean: [B, ...], transition mean at sampling; only where the algorithm's needs_old_mean is true.
        std: [B], standard deviation of the transition.
        delta: [B], sigma - sigma_next.
    """

    log_prob: torch.Tensor
    old_log_prob: torch.Tensor
    advantage: torch.Tensor
    mean: torch.Tensor
    old_mean: torch.Tensor | None
    std: torch.Tensor
    delta: torch.Tensor


def loss(inputs: Inputs, config: Config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each pair [B] and per-pair metrics [B]; the caller weighs and averages."""
    ratio = torch.exp(inputs.log_prob - inputs.old_log_prob)
    return clipped(ratio, inputs.advantage, config.clip_range)


def clipped(
    ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """PPO's pessimistic clipped surrogate, per element."""
    limited = ratio.clamp(1 - clip_range, 1 + clip_range)
    value = torch.maximum(-advantage * ratio, -advantage * limited)
    with torch.no_grad():
        metrics = {
            "clip_fraction": ((ratio - 1).abs() > clip_range).float(),
            "clip_above": (ratio - 1 > clip_range).float(),
            "ratio_mean": ratio.detach(),
            "ratio_error": (ratio - 1).abs(),
        }
    return value, metrics
