"""GRPO-Guard (arXiv 2510.22319): a ratio that is centred and of the same scale at every noise level.

ratio = exp((log_prob - old_log_prob + b) s), b = mean ||mean - old_mean||² / 2 s², s the transition's std;
the loss is divided by Δ = sigma - sigma_next. b removes the ratio's bias below 1, which makes clipping
one-sided, and s and Δ its dependence on the step.

Only defined for Flow-SDE: CPS's log-probability lacks the 1 / 2 s² that b cancels, and Dance-SDE scales
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flow_grpo.algorithms.grpo import Inputs, clipped


@dataclass(frozen=True)
class Config:
    """Attributes:
    clip_range: Published: 2e-6 (GenEval, OCR), 4e-6 (PickScore).
    """

    clip_range: float = 4e-6

    needs_trajectory: ClassVar[bool] = True
    needs_old_mean: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("flow_sde",)


def loss(inputs: Inputs, config: Config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each pair [B] and per-pair metrics [B]; the caller weighs and averages."""
    assert inputs.old_mean is not None, "GRPO-Guard needs the transition means of the rollout"
    drift = ((inputs.mean - inputs.old_mean) ** 2).flatten(1).mean(dim=1) / (2 * inputs.std**2)
    ratio = torch.exp((inputs.log_prob - inputs.old_log_prob + drift) * inputs.std)
    value, metrics = clipped(ratio, inputs.advantage, config.clip_range)
    return value / inputs.delta, metrics
