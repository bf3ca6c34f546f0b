"""How near to a GPU's limit training runs: model FLOP utilisation, from the plan's work and the clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from flow_grpo.config import TrainConfig
from flow_grpo.cost import GPUS, Gpu, read_shape
from flow_grpo.plan import make_plan

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Phases of an iteration, in the order in which they are told.
PHASES = ("sample", "decode", "score_wait", "train", "other")


def phases(sampling: Mapping[str, float], train: float, total: float, also: float = 0.0) -> dict[str, float]:
    """Seconds of each phase of an iteration, and of all under the empty name.

    Args:
        sampling: Those of the rollout.
        train: Seconds of all updates.
        total: Seconds of the iteration.
        also: Seconds that are told elsewhere.

    Returns:
        With other: gathering scores, advantages, and whatever else is in no phase.
    """
    other = total - sum(sampling.values()) - train - also
    return {**sampling, "train": train, "other": max(0.0, other), "": total}


def phase_line(row: Mapping[str, float]) -> str:
    """One line on where an iteration's time went, from its row in metrics.jsonl."""
    parts = [f"{name.replace('_', ' ')} {row[f'seconds/{name}']:.1f}" for name in PHASES]
    mfu = f", MFU {row['mfu']:.0%}" if "mfu" in row else ""
    return f"{row['seconds']:.1f} s: {', '.join(parts)}{mfu}"


def ideal_seconds(config: TrainConfig, accelerator: Accelerator) -> float | None:
    """What an iteration's transformer work would take at the peak rate of the GPUs; None where it is unknown.

    The VAE, text encoders and a reward model in this process are not counted, nor is what is computed twice
    to save memory left out: recomputation is work that the plan counts.
    """
    if accelerator.device.type != "cuda":
        return None
    gpu = known_gpu(torch.cuda.get_device_name(accelerator.device))
    if gpu is None:
        return None
    plan = make_plan(config, read_shape(config.model.path), accelerator.num_processes)
    return plan.pflop * 1e3 / gpu.tflops / accelerator.num_processes


def known_gpu(name: str) -> Gpu | None:
    """The GPU of `flow_grpo.cost.GPUS` that a driver calls `name`, such as `NVIDIA A100-SXM4-40GB`."""
    words = re.split(r"[ -]", name.lower())
    there = {*words, *("".join(pair) for pair in pairwise(words))}
    matches = [key for key in GPUS if there.issuperset(key.split("-"))]
    return GPUS[max(matches, key=len)] if matches else None
