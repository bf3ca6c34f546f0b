"""How processes find each other, and what they tell each other apart from gradients."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from flow_grpo.config import TrainConfig
from flow_grpo.rollout import ScoringFailed
from flow_grpo.signals import StopRequested, interruptible, requested

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

    Raises:
        ValueError: The launch asks for a model that is split over processes.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    patience = config.reward.ready_timeout + config.reward.max_outage + LAG
    accelerator = Accelerator(
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
    check_whole(accelerator.distributed_type.value)
    return accelerator


def check_whole(kind: str) -> None:
    """Refuse a launch under which processes do not each hold the whole model.

    With FSDP or tensor parallelism each forward pass is a conversation of all processes, and here they make
    different numbers of them and may drop an iteration apart from each other: such a run would hang. And
    DeepSpeed takes optimizer steps by itself, where this trainer takes them once for each update.

    Args:
        kind: Value of accelerate's DistributedType.

    Raises:
        ValueError: Naming the kind and what to use.
    """
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"):
        raise ValueError(
            f"accelerate's distributed_type is {kind}: every process has to hold the whole model; use "
            f"MULTI_GPU (configs/accelerate/). To save memory: model.text_cache, "
            f"model.gradient_checkpointing, a smaller optimizer.micro_batch. Only adapters have gradients "
            f"and optimizer states, 4 GB for rank 64."
        )


def agreed(produce: Callable[[], T]) -> T:
    """Call `produce` on every process; if it cannot score, or is asked to stop, on one of them, raise on all.

    Without this a process whose reward server went away would leave the others waiting for it forever, or
    take them with it before they have saved anything. Signals interrupt `produce` at once.

    Raises:
        StopRequested, ScoringFailed, FloatingPointError: On every process the same, from the first that
            failed; a request to stop comes before the others.
    """
    results: list[T] = []
    failure: BaseException | None = None
    try:
        with interruptible():
            results.append(produce())
    except (StopRequested, ScoringFailed, FloatingPointError) as error:
        failure = error
    described = [failure and (type(failure), str(failure), vars(failure))]
    failures = [parts for parts in gather(described) if parts is not None]
    if failures:
        kind, text, details = min(failures, key=lambda parts: parts[0] is not StopRequested)
        same = kind.__new__(kind, text)  # its __init__ may want other things than the message
        vars(same).update(details)
        raise same from failure
    return results[0]


def stop_together() -> None:
    """Raise on all processes if one of them has been asked to stop; they have to call this together.

    Raises:
        StopRequested: Naming the signal.
    """
    names = [name for name in gather([requested()]) if name is not None]
    if names:
        raise StopRequested(names[0])


def is_lost(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended or cannot be reached."""
    import torch.distributed

    # Gloo's own failures have no type of their own.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


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
