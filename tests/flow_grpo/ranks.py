"""The trainer's command in processes of their own, forked from one that has loaded the libraries already.

A process that `accelerate launch` starts needs ten seconds before it trains, which is most of what a test
that kills and resumes would do. What is forked here is as separate, and dies as abruptly.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from flow_grpo.train import main

PATIENCE = 240  # seconds; a busy machine is slow


class Forked:
    """One process that runs the command.

    Args:
        arguments: Of the command.
        log: File that takes its output.
        environment: Variables on top of this process's.
        before: Called in the process before the command.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: dict[str, str] | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.log = log
        self.code: int | None = None
        log.touch()
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                _become_fresh(log, environment or {})
                before()
                code = main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Exit code, negative signal number, or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, patience: float = PATIENCE) -> int:
        """Exit code; the process is killed if it does not end in time."""
        self.until(lambda: self.poll() is not None, patience)
        assert self.code is not None
        return self.code

    def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait for something that the process does."""
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end or (self.poll() is not None and not condition()):
                self.kill()
                raise AssertionError(f"it did not come (exit code {self.code}):\n{self.text()[-3000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        if self.poll() is None:
            self.send(signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def group(
    count: int,
    arguments: Sequence[str],
    folder: Path,
    before: Callable[[], object] = lambda: None,
    **environment: str,
) -> list[Forked]:
    """`count` processes that train together over gloo; their logs are folder/rank-N.log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", **environment}
    sizes = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [
        Forked(
            arguments,
            folder / f"rank-{rank}.log",
            {**shared, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            before,
        )
        for rank in range(count)
    ]


def _become_fresh(log: Path, environment: dict[str, str]) -> None:
    """Forget what the parent process has set up: its output, its signal handlers, accelerate's state."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no test outlives the tests
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    os.environ.update(environment)
