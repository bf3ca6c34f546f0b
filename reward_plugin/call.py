"""What the requests of one call have in common."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TypeVar

from reward_plugin.errors import ServerUnavailable

T = TypeVar("T")


class Call:
    """What the requests of one call have in common: when it must be over, and whether it is lost already."""

    def __init__(self, seconds: float | None = None) -> None:
        """Begin now, and end after so many seconds; None: whenever the servers answer."""
        self.seconds = seconds
        self.lost: Exception | None = None
        self._ends = float("inf") if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds to the deadline; infinite without one.

        Raises:
            ServerUnavailable: it has passed.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def result_of(self, future: Future[T]) -> T:
        """What another thread does for this call.

        Raises:
            ServerUnavailable: it is not done at the deadline.
        """
        left = self.left()
        try:
            return future.result(None if left == float("inf") else left)
        except TimeoutError:
            raise self.late() from None

    def late(self) -> ServerUnavailable:
        """The error of a deadline that has passed."""
        return ServerUnavailable(
            f"the scores did not come within the call's deadline of {self.seconds:g} s; allow more, send "
            "fewer images at once, or serve them with more replicas"
        )
