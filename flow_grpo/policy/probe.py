"""`optimizer.micro_batch: auto`: as many examples in one forward and backward as memory has room for.

On a GPU sizes 1, 2, 3, 4, 6, 8, 12, ... are tried with the loaded model until one takes more than `FRACTION`
of the memory that this process can have, on any process; all use the same. With a base that is split over
processes 1 and 2 are measured, and more are reckoned from them: one that ran out of memory in the middle of a
forward pass would leave the others waiting in it. What is left is for rollouts, the VAE and fragmentation.
Elsewhere it is `WITHOUT_GPU`. The size changes results only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from flow_grpo.config import TrainConfig
from flow_grpo.pace import gather, is_split
from flow_grpo.policy.base import Condition, Policy

if TYPE_CHECKING:
    from accelerate import Accelerator

FRACTION = 0.8
WITHOUT_GPU = 16
#: What to change when memory does not suffice, the cheapest first.
REMEDY = (
    "lower optimizer.micro_batch (or set it to auto) and sampler.chunk, set model.text_cache so that the "
    "text encoders leave the GPU, set model.gradient_checkpointing to true, or lower model.height and "
    "model.width"
)


def settled(config: TrainConfig, policy: Policy, text: str, accelerator: Accelerator) -> TrainConfig:
    """The configuration with a number as `optimizer.micro_batch`.

    Args:
        config: The run's configuration.
        policy: Loaded and distributed.
        text: Any prompt of the run.
        accelerator: All processes take part.

    Raises:
        ValueError: Not even one example fits.
    """
    if config.optimizer.micro_batch != "auto":
        return config
    pictures = config.prompts.per_iteration * config.prompts.group_size // accelerator.num_processes
    most = max(1, pictures * config.sampler.num_steps // config.optimizer.updates_per_rollout)
    size = min(WITHOUT_GPU, most)
    if policy.device.type == "cuda":
        condition = policy.encode([text])
        # AdamW's, made at its first step.
        states = 8 * sum(value.numel() for value in policy.trainable.values())
        budget = FRACTION * _available() - states
        peak = partial(_tried, policy, condition)
        if is_split(accelerator):
            peak = partial(line, _peak(policy, condition, 1), _peak(policy, condition, 2))
        size = largest(lambda n: all(gather([peak(n) <= budget])), most, REMEDY)
    return replace(config, optimizer=replace(config.optimizer, micro_batch=size))


def largest(fits: Callable[[int], bool], most: int, remedy: str) -> int:
    """The largest size tried, up to `most`, below the first that does not fit.

    Raises:
        ValueError: 1 does not fit.
    """
    best = 0
    for size in sizes(most):
        if not fits(size):
            break
        best = size
    if best == 0:
        raise ValueError(f"optimizer.micro_batch is auto, but memory has no room for 1 example; {remedy}.")
    return best


def line(one: float, two: float, size: int) -> float:
    """Bytes for `size` examples by those for 1 and for 2: every further one takes as much."""
    return one + (size - 1) * (two - one)


def sizes(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ... below `most`, and `most`."""
    power = 1
    while power < most:
        yield power
        if power > 1 and power * 3 // 2 < most:
            yield power * 3 // 2
        power *= 2
    yield most


def out_of_memory(error: torch.OutOfMemoryError) -> str:
    """What to tell of an allocation that failed while training."""
    reason = str(error).split(". ")[0]
    return f"{reason}. To make room, {REMEDY}. The same command goes on from the last checkpoint."


def _available() -> int:
    """Bytes on the GPU that are free or this process's own."""
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved())


def _tried(policy: Policy, condition: Condition, size: int) -> float:
    """The same as `_peak`; infinity if there is no room."""
    try:
        return _peak(policy, condition, size)
    except torch.OutOfMemoryError:
        return float("inf")
    finally:
        torch.cuda.empty_cache()


def _peak(policy: Policy, condition: Condition, size: int) -> float:
    """Most bytes in use during a forward and backward of `size` examples."""
    torch.cuda.reset_peak_memory_stats()
    differentiate(policy, condition, size)
    return float(torch.cuda.max_memory_allocated())


def differentiate(policy: Policy, condition: Condition, size: int) -> None:
    """A forward and backward pass that leaves no gradients."""
    device, weights = policy.device, list(policy.trainable.values())
    rows = condition.take(torch.zeros(size, dtype=torch.long, device=device))
    x = torch.zeros(size, *policy.latent_shape, device=device)
    loss = policy.velocity(x, torch.full((size,), 0.5, device=device), rows).square().mean()
    torch.autograd.grad(loss, weights, allow_unused=True)
