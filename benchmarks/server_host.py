"""A reward server in a process of its own, with what the operating system knows about it."""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

HOST = "127.0.0.1"


class Server:
    """Started on entry, on loopback; ended on exit. Its log goes to a file that ends with it."""

    def __init__(self, command: Sequence[str], *, threads: int = 1, ready_within: float = 120.0) -> None:
        """`command` is what follows `python -m`; the port is added to it."""
        self.port = _free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._log = tempfile.NamedTemporaryFile("w+", prefix="server-", suffix=".log")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(self.port)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.system = psutil.Process(self._process.pid)
        try:
            self._wait_ready(time.monotonic() + ready_within)
        except BaseException:
            print(self.log()[-2000:], file=sys.stderr)
            self.close()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """As of `subprocess`; None while it runs."""
        return self._process.poll()

    def memory(self) -> int:
        """Resident bytes."""
        return int(self.system.memory_info().rss)

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        times = self.system.cpu_times()
        return float(times.user + times.system)

    def descriptors(self) -> int:
        """Open files and connections."""
        return int(self.system.num_fds())

    def log(self) -> str:
        """All that it has written."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def _wait_ready(self, until: float) -> None:
        while self.alive and time.monotonic() < until:
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("the server did not become ready; its log is above")

    def close(self) -> None:
        """End it, and its log."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class HealthProbe:
    """Asks `/health` every so often in a thread; `seconds` are the answers' times, in order."""

    def __init__(self, port: int, every: float = 0.05) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._port, self._every, self._stop = port, every, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> HealthProbe:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=30)
        while not self._stop.wait(self._every):
            start = time.perf_counter()
            try:
                connection.request("GET", "/health")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(f"HTTP {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                connection.close()
            else:
                self.seconds.append(time.perf_counter() - start)
        connection.close()


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95 %, 99 % and the largest, in milliseconds, and how many."""
    cuts = {f"p{percent}": round(percentile(seconds, percent) * 1e3, 1) for percent in (50, 95, 99)}
    mean = round(statistics.fmean(seconds) * 1e3, 1) if seconds else float("nan")
    return {"count": len(seconds), "mean": mean, **cuts, "max": round(max(seconds, default=0.0) * 1e3, 1)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
