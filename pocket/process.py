"""A child process that can be watched, measured and always stopped."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

_interrupted = False


def interrupt_only_while_waiting() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt only in `raise_if_interrupted`.

    Waiting calls it. Raised anywhere, it could come between the start of a child and the block that stops it,
    or within the stopping. SIGHUP is a terminal that was closed: without a handler the children, which have
    sessions of their own, would stay behind. Under nohup it stays ignored.
    """

    def note(number: int, frame: FrameType | None) -> None:
        global _interrupted
        _interrupted = True

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, note)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal came since `interrupt_only_while_waiting`."""
    if _interrupted:
        raise KeyboardInterrupt


class ChildFailed(RuntimeError):
    """A child process ended with an error; the message carries the end of its log."""

    def __init__(self, child: "Child", what: str) -> None:
        super().__init__(f"{child.name} {what}. The end of {child.log}:\n{tail(child.log)}")


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented; of a progress bar only its last state."""
    text = log.read_bytes().decode(errors="replace") if log.exists() else ""
    last = [line.rsplit("\r", 1)[-1] for line in text.rstrip().replace("\r\n", "\n").split("\n")[-lines:]]
    return "\n".join(f"    {line}" for line in last) if text.strip() else "    (empty)"


class Child:
    """A command with its output in a log file and, with `echo`, on the terminal as it comes.

    It runs in a process group of its own, and stopping it stops the group: `accelerate launch` is only the
    parent of the trainer, which would outlive a signal sent to the parent alone.

    Attributes:
        seconds: how long it has run, or ran.
        peak_gib: the largest resident memory of any one process it started, in GiB; known once it has ended.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        echo: bool = True,
    ) -> None:
        self.name, self.log = name, log
        self.peak_gib = float("nan")
        log.parent.mkdir(parents=True, exist_ok=True)
        self._file = log.open("wb")
        self._started = time.monotonic()
        self._ended: float | None = None
        self._process = subprocess.Popen(
            command,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if echo else self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._started

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        process = self._process
        if process.returncode is None:
            # Not Popen.poll: only wait4 tells the memory, and only whoever reaps the child may ask.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                self._ended = time.monotonic()
                self.peak_gib = usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        return process.returncode

    def wait(self, needs: "Child | None" = None) -> None:
        """Show the output until the command ends.

        Args:
            needs: a child that this one cannot do without.

        Raises:
            ChildFailed: the exit code is not 0, or the child that is needed has ended.
            KeyboardInterrupt: see `interrupt_only_while_waiting`.
        """
        # Not until the pipe ends: a helper that the command left behind may hold it open for good.
        while self._pass_on(seconds=0.1) or self.poll() is None:
            raise_if_interrupted()
            if needs is not None and needs.poll() is not None:
                raise ChildFailed(needs, f"{needs.ending()} while {self.name} needed it")
        if self.poll():
            raise ChildFailed(self, self.ending())

    def ending(self) -> str:
        """How it ended, for a message."""
        code = self.poll()
        if code is not None and code < 0:
            return f"was ended by signal {-code} ({signal.Signals(-code).name})"
        return f"failed with exit code {code}" if code else "ended"

    def _pass_on(self, seconds: float) -> bool:
        """Wait for output at most so long, and copy what has come; whether anything has."""
        pipe = self._process.stdout
        if pipe is None or pipe.closed:
            time.sleep(seconds)
            return False
        if not select.select([pipe], [], [], seconds)[0]:
            return False
        # By whatever is there, not by lines: a progress bar redraws itself without ending its line.
        chunk = os.read(pipe.fileno(), 65536)
        if not chunk:
            pipe.close()
            return False
        self._file.write(chunk)
        self._file.flush()
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        return True

    def stop(self, grace: float = 10.0) -> None:
        """End it and everything it started: SIGTERM, then after `grace` seconds SIGKILL."""
        deadline = time.monotonic() + grace
        self._signal(signal.SIGTERM)
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._file.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
