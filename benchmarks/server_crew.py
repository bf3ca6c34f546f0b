"""Worker processes, and the sum of what they report."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.server_worker import Work


@dataclass
class Total:
    """What all workers of a crew have reported.

    Attributes:
        images: Answers that were checked against their picture.
        wrong: What was answered instead of the right thing; texts.
        failed: Requests that the client gave up on; texts.
        missing: Damaged pictures that came back as missing, as they must.
        latencies: Seconds a request.
        statuses: Responses by their status, where that is counted.
        seconds: Of the longest worker.
        cpu: Processor seconds of all of them.
    """

    images: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    missing: int = 0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu: float = 0.0


class Crew:
    """Starts workers, kills them, adds up their reports. Leaves none behind."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        """`prefix` is a command that runs the command behind it, elsewhere."""
        self._prefix = prefix
        self.total, self.started, self.killed = Total(), 0, 0
        self._members: list[tuple[subprocess.Popen[str], threading.Thread]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        for process, _ in self._members:
            process.kill()
        self.join()

    def start(self, work: Work) -> subprocess.Popen[str]:
        """One more worker."""
        process = subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "benchmarks.server_worker", json.dumps(asdict(work))],
            stdout=subprocess.PIPE,
            text=True,
        )
        listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        listener.start()
        self._members.append((process, listener))
        self.started += 1
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        """As an operating system does that is out of memory: at once, in the middle of whatever it does."""
        process.kill()
        process.wait()
        self.killed += 1

    def join(self) -> None:
        """Wait for those that are left."""
        for process, listener in self._members:
            process.wait()
            listener.join()
        self._members.clear()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        seconds = 0.0
        for line in process.stdout:
            try:
                report: dict[str, Any] = json.loads(line)
            except ValueError:  # killed while it wrote
                continue
            seconds += report.pop("seconds")
            with self._lock:
                total = self.total
                total.seconds = max(total.seconds, seconds)
                total.statuses.update(report.pop("statuses"))
                for name, value in report.items():
                    setattr(total, name, getattr(total, name) + value)
