"""What the requests of one call have in common."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

from reward_plugin.errors import ServerUnavailable

T = TypeVar("T")


class Call:
    """What the requests of one call have in common: when it must be over, and whether it is lost already."""

    def __init__(self, seconds: float | None = None) -> None:
        """Begin now, and end after so many seconds; None: whenever the servers answer."""
        self.seconds = seconds
        self.lost: BaseException | None = None
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

    def in_time(self, work: Future[T]) -> Future[T]:
        """The outcome of `work`, or the error of the deadline where that comes first: also while it waits for
        a thread that has time for it.
        """
        if self.seconds is None:
            return work
        outcome: Future[T] = Future()
        outcome.set_running_or_notify_cancel()  # as there is nobody who would look whether it was cancelled

        def settle() -> None:
            with suppress(InvalidStateError):  # the other one of the two was first
                if not work.done():
                    outcome.set_exception(self.late())
                elif work.cancelled():
                    outcome.set_exception(CancelledError())
                elif (error := work.exception()) is not None:
                    outcome.set_exception(error)
                else:
                    outcome.set_result(work.result())

        timer = threading.Timer(max(0.0, self._ends - time.monotonic()), settle)
        timer.daemon = True
        timer.start()

        def done(work: Future[T]) -> None:
            timer.cancel()
            settle()

        work.add_done_callback(done)
        return outcome

    def late(self) -> ServerUnavailable:
        """The error of a deadline that has passed."""
        return ServerUnavailable(
            f"the scores did not come within the call's deadline of {self.seconds:g} s; allow more, send "
            "fewer images at once, or serve them with more replicas"
        )
