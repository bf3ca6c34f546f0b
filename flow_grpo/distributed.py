"""How processes find each other, and what they tell each other apart from gradients."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch

from flow_grpo.config import TrainConfig
from flow_grpo.pace import APART, Pace
from flow_grpo.pace import gather as gather
from flow_grpo.pace import stop_together as stop_together
from flow_grpo.rollout import ScoringFailed
from flow_grpo.signals import StopRequested
from flow_grpo.split import settle_kind

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
        ValueError: The launch asks for what this trainer cannot be part of, see `flow_grpo.split`.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    hold_no_group()
    patience = config.reward.ready_timeout + config.reward.max_outage + LAG
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else accelerate does not connect processes on the CPU
        mixed_precision="no",  # model.dtype says what is computed in what
        log_with="wandb" if config.log.wandb else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=patience))],
    )
    settle_kind(accelerator)
    return accelerator


def hold_no_group() -> None:
    """To be called before processes connect, so that destroying their group ends its threads.

    Functions of `torch.distributed.nn` have as a default the group that there is when the module is imported,
    and diffusers imports it: a group that is there by then lives on in those defaults until Python ends. One
    of its threads that is late to drop a tensor then finds Python gone, and takes the process with it after
    all its work is done: "terminate called without an active exception", seen on a busy machine.
    """
    import torch.distributed.nn

    assert torch.distributed.nn is not None


def agreed(produce: Callable[[], T], pace: Pace = APART) -> T:
    """Call `produce` on every process; if it cannot score, or is asked to stop, on one of them, raise on all.

    Without this a process whose reward server went away would leave the others waiting for it forever, or
    take them with it before they have saved anything. Signals interrupt `produce` where `pace` allows it.

    Raises:
        StopRequested, ScoringFailed, FloatingPointError: On every process the same, from the first that
            failed; a request to stop comes before the others.
    """
    results: list[T] = []
    failure: BaseException | None = None
    try:
        with pace.rollout():
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
