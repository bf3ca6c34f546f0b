"""Whether processes may go their own way between two exchanges, or have to make all forward passes together.

With a base that is split over processes (FSDP2) a forward pass is a conversation of all of them. Then all
make as many, in the same order, and none may leave the others in the middle: not after a signal, not because
its scores do not come, not to look for a number that is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flow_grpo.signals import StopRequested, interruptible, requested

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class Pace(Protocol):
    """How a rollout keeps in step with those of other processes."""

    def rollout(self) -> AbstractContextManager[None]:
        """Around all of a rollout."""

    def waiting(self) -> AbstractContextManager[None]:
        """Around what makes no forward pass any more: waiting for scores."""

    def before_chunk(self) -> None:
        """Between two chunks of pictures."""

    def anywhere(self, here: bool) -> bool:
        """Whether something is so on any process that has to go along."""

    def padded(self, rows: Sequence[T]) -> list[T]:
        """Work of this process, with as much as others have: the last of it again."""


class Apart:
    """Every process holds the whole model: a signal interrupts it at once, and it asks nobody."""

    def rollout(self) -> AbstractContextManager[None]:
        return interruptible()

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def before_chunk(self) -> None:
        return

    def anywhere(self, here: bool) -> bool:
        return here

    def padded(self, rows: Sequence[T]) -> list[T]:
        return list(rows)


APART = Apart()


class InStep:
    """The base is split: signals are acted on by all together before a chunk, or while waiting for scores.

    Each exchange waits for the device once, which is little beside a chunk.
    """

    def rollout(self) -> AbstractContextManager[None]:
        return nullcontext()

    def waiting(self) -> AbstractContextManager[None]:
        return interruptible()

    def before_chunk(self) -> None:
        stop_together()

    def anywhere(self, here: bool) -> bool:
        return any(gather([here]))

    def padded(self, rows: Sequence[T]) -> list[T]:
        most = max(gather([len(rows)]))
        return [*rows, *([rows[-1]] * (most - len(rows)))]


def pace_of(accelerator: Accelerator) -> Pace:
    """What the launch demands, see `flow_grpo.split`."""
    return InStep() if is_split(accelerator) else APART


def is_split(accelerator: Accelerator) -> bool:
    """Whether each process holds only its share of the base's weights."""
    return accelerator.distributed_type.value == "FSDP"


def stop_together() -> None:
    """Raise on all processes if one of them has been asked to stop; they have to call this together.

    Raises:
        StopRequested: Naming the signal.
    """
    names = [name for name in gather([requested()]) if name is not None]
    if names:
        raise StopRequested(names[0])


def gather(rows: list[Any]) -> list[Any]:
    """The rows of all processes, in order of rank. Nothing is padded, so nothing has to be dropped."""
    from accelerate.utils import gather_object

    return list(gather_object(rows))
