"""Being asked to end: SIGTERM, Ctrl-C, a closed terminal, what schedulers send before they take a machine.

The run ends at once where nothing of its state would be half changed (while it samples and waits for scores:
the iteration is dropped), and after the iteration where it would be (while weights are updated). In both
cases all processes end together, with a checkpoint of the last completed iteration.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: A signal that is ignored, as SIGHUP under nohup, stays ignored.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: What the command returns after it was asked to end: EX_TEMPFAIL of sysexits.h, "try again later".
EXIT_CODE = 75
#: Seconds after which another Ctrl-C ends the process without a checkpoint. A launcher passes on what the
#: terminal has sent as well, so the first two are one.
INSISTING = 3.0


class StopRequested(BaseException):
    """A signal asked the run to end; the message names it. Not an Exception: it must pass every handler."""


class _Requests:
    """What has been asked of this process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.name: str | None = None
        self.since = 0.0
        self.armed = False

    def note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.name is not None and number == signal.SIGINT and now - self.since > INSISTING:
            raise KeyboardInterrupt
        if self.name is None:
            self.name, self.since = signal.Signals(number).name, now
        if self.armed:
            self.armed = False
            raise StopRequested(self.name)


_requests = _Requests()


def requested() -> str | None:
    """Name of the first signal that has come since `listening` began, or None."""
    return _requests.name


@contextmanager
def listening() -> Iterator[None]:
    """While this lasts, signals are noted instead of ending the process. Nothing happens in other threads."""
    _requests.clear()
    former: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
        former = {number: signal.signal(number, _requests.note) for number in wanted}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _requests.clear()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it a signal raises at once. For what changes no state, and talks to no other process.

    Raises:
        StopRequested: A signal has come, now or before.
    """
    _requests.armed = True
    try:
        if _requests.name is not None:
            raise StopRequested(_requests.name)
        yield
    finally:
        _requests.armed = False


def end_with_launcher() -> None:
    """Have a SIGTERM sent to this process when `accelerate launch` above it dies.

    For one process accelerate's launcher does not pass signals on: it would end, and training would go on
    with nobody to see it. Nothing happens under another parent, or on other systems than Linux.
    """
    import psutil

    parent = psutil.Process().parent()
    if sys.platform != "linux" or parent is None or "accelerate" not in " ".join(parent.cmdline()):
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
