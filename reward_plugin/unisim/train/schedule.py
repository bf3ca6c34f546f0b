"""The learning rate and what decays. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reward_plugin.unisim.train.config import OptimizerConfig

if TYPE_CHECKING:
    import torch


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of a step, counted from 0: linear warm-up, then half a cosine from `lr` down to `min_lr`.

    As OpenCLIP's `cosine_lr` with the published floor. (The published code divides a run's steps by the
    processes once too often, so that with several the rate rises again; here it ends at the floor.)
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * done))


def decays(name: str, dimensions: int) -> bool:
    """Whether a parameter has weight decay: matrices but normalisations and biases, as OpenCLIP has it."""
    return dimensions >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def parameter_groups(
    parameters: Mapping[str, torch.nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups, with and without decay, each parameter in one."""
    decayed = [value for name, value in parameters.items() if decays(name, value.ndim)]
    others = [value for name, value in parameters.items() if not decays(name, value.ndim)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
