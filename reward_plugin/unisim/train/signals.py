"""Being asked to end: SIGTERM, Ctrl-C, a closed terminal, what schedulers send before they take a machine.

The step that is being made is finished, then all processes end together, with a checkpoint.
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


class StopRequested(Exception):
    """A signal asked the run to end; the message names it, or says that another process was asked."""


class Requests:
    """What has been asked of this process.

    Attributes:
        name: Of the first signal, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._since = 0.0

    def note(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self.name is not None and number == signal.SIGINT and now - self._since > INSISTING:
            raise KeyboardInterrupt
        if self.name is None:
            self.name, self._since = signal.Signals(number).name, now


@contextmanager
def listening() -> Iterator[Requests]:
    """While this lasts, signals are noted instead of ending the process. Nothing happens in other threads."""
    requests = Requests()
    former: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
        former = {number: signal.signal(number, requests.note) for number in wanted}
    try:
        yield requests
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


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
