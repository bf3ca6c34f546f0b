"""How processes find each other, and what they tell each other apart from gradients."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from flow_grpo.config import TrainConfig
from flow_grpo.rollout import ScoringFailed

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

#: Seconds that a process may be behind another besides waiting for scores: loading from a slow disk, sampling
#: a larger share of the validation.
LAG = 1800.0


def connect(config: TrainConfig) -> Accelerator:
    """Join the other processes of the launch; alone, there are none.

    A process that ends takes the others with it: the launcher sees to that. One that hangs is given up after
    a time that covers every wait allowed to it. The libraries' default, 10 minutes on GPUs, would end a run
    that still waits for a reward server with the patience it was told to have.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    patience = config.reward.ready_timeout + config.reward.max_outage + LAG
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # else accelerate does not connect processes on the CPU
        mixed_precision="no",  # model.dtype says what is computed in what
        log_with="wandb" if config.log.wandb else None,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=patience)),
            # The base is frozen, and processes differ in how many forward passes they make (validation,
            # examples without advantage), so a forward pass must not be a conversation.
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )


def agreed(produce: Callable[[], T]) -> T:
    """Call `produce` on every process; if it fails to score on one of them, raise on all.

    Without this a process whose reward server went away would leave the others waiting for it forever, or
    take them with it before they have saved anything.

    Raises:
        ScoringFailed: On every process, with the message of the first that failed.
    """
    results: list[T] = []
    message = None
    try:
        results.append(produce())
    except ScoringFailed as error:
        message = str(error)
    failures = [text for text in gather([message]) if text is not None]
    if failures:
        raise ScoringFailed(failures[0])
    return results[0]


def leave_together() -> None:
    """Wait, before ending, for the others that end as well: the launcher stops all processes as soon as one
    has failed, and one of them may still be writing the checkpoint.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def gather(rows: list[Any]) -> list[Any]:
    """The rows of all processes, in order of rank. Nothing is padded, so nothing has to be dropped."""
    from accelerate.utils import gather_object

    return list(gather_object(rows))
