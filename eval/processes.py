"""The processes of one comparison: alone, or started together by `accelerate launch -m eval compare`.

Work is dealt out by position, results are gathered in the order of the work, and only the first process
writes what is not a picture. What is drawn is seeded by what it is for, so their number changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

#: A process may be behind the others by loading from a slow disk, or waiting for a reward server.
LAG_HOURS = 2.0


class Processes:
    """This process among the others.

    Attributes:
        rank: Its number.
        count: How many there are.
    """

    def __init__(self) -> None:
        import atexit
        from datetime import timedelta

        import torch
        from accelerate import PartialState

        from flow_grpo.distributed import hold_no_group

        hold_no_group()
        # Without `cpu` accelerate does not connect processes where there is no GPU.
        self._state = PartialState(
            cpu=not torch.accelerator.is_available(), timeout=timedelta(hours=LAG_HOURS)
        )
        self.rank, self.count = self._state.process_index, self._state.num_processes
        if self.count > 1:
            atexit.register(self._state.destroy_process_group)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """The accelerator that is this process's own, or the CPU."""
        return str(self._state.device)

    def share(self, work: Sequence[T]) -> list[T]:
        """This process's part of the work."""
        return list(work[self.rank :: self.count])

    def collect(self, part: Sequence[T], total: int) -> list[T]:
        """The results of all processes, in the order of the work that `share` dealt out.

        Args:
            part: One result for each item of this process's share.
            total: Length of the work.
        """
        if self.count == 1:
            return list(part)
        from accelerate.utils import gather_object

        dealt: list[Any] = [None] * total
        rows = gather_object([(self.rank + i * self.count, row) for i, row in enumerate(part)])
        for position, row in rows:
            dealt[position] = row
        return dealt

    def wait(self) -> None:
        """Until all have come here."""
        self._state.wait_for_everyone()
