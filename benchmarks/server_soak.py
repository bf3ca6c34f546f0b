"""Minutes of load at 80 % of what the server can do, while workers are killed and damaged requests arrive.

Answers are checked one by one against their pictures, statuses are counted, and the server's memory is looked
at from the outside.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from statistics import median
from typing import Any

from benchmarks.server_crew import Crew
from benchmarks.server_fuzz import Found, Fuzz
from benchmarks.server_host import HealthProbe, Server, milliseconds
from benchmarks.server_schema import Schema
from benchmarks.server_worker import Work

#: Share of the measured capacity, growth of memory that is allowed, milliseconds of /health.
LOAD, AIM_GROWTH, AIM_HEALTH = 0.8, 0.05, 50.0
#: Shorter runs than this many minutes say nothing about memory.
MEMORY_MINUTES = 3.0
#: Shares of the time: when memory counts as warm, and how long the two windows are that are compared.
WARM, WINDOW = 0.15, 0.1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument("--minutes", type=float, default=10.0, help="of load, after the capacity is measured")
    parser.add_argument("--calibrate", type=float, default=20.0, help="seconds to measure the capacity")
    parser.add_argument("--workers", type=int, default=2, help="client processes")
    parser.add_argument(
        "--kill_every", type=float, default=10.0, help="seconds between two kills of a worker"
    )
    parser.add_argument(
        "--malformed", type=int, default=10_000, help="damaged requests that are made by hand"
    )
    parser.add_argument("--schema_cases", type=int, default=2_000, help="requests made by schemathesis")
    parser.add_argument("--soak_side", type=int, default=512, help="width and height of a picture")
    parser.add_argument("--soak_batch", type=int, default=8, help="pictures in one request")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Capacity, then the soak."""
    seconds = options.minutes * 60
    with Server(["benchmarks.server_stamp"]) as server:
        capacity = _capacity(server, options)
        rate = LOAD * capacity / options.workers / options.soak_batch
        fuzz = Fuzz(server.port, options.malformed, options.malformed / seconds, held=8)
        schema = Schema(server.url, options.schema_cases, options.schema_cases / seconds)
        memory = Memory(server)
        with Crew() as crew, HealthProbe(server.port) as health, memory, Fuzzers() as fuzzers:
            fuzzers.start("benchmarks.server_fuzz", asdict(fuzz))
            if options.schema_cases and find_spec("schemathesis"):
                fuzzers.start("benchmarks.server_schema", asdict(schema))
            _work(crew, server, options, rate, seconds)
            crew.join()
            fuzzers.join(60)
        return {
            "minutes": options.minutes,
            "workers": options.workers,
            "capacity_images_per_second": round(capacity, 1),
            "load_images_per_second": round(crew.total.images / seconds, 1),
            "workers_started": crew.started,
            "workers_killed": crew.killed,
            "answers_checked": crew.total.images,
            "wrong": crew.total.wrong[:20],
            "failed": crew.total.failed[:20],
            "damaged_pictures_missing": crew.total.missing,
            "statuses_of_good_requests": dict(crew.total.statuses),
            "malformed": {part: _found(found) for part, found in fuzzers.found.items()},
            "latency_ms": milliseconds(crew.total.latencies),
            "health_ms": milliseconds(health.seconds),
            "health_failures": health.failures[:20],
            "memory": memory.summary(),
            "alive": server.alive and server.get("/ready")[0] == 200,
            "errors_in_log": server.log().count("Traceback"),
        }


def _capacity(server: Server, options: argparse.Namespace) -> float:
    """Images a second of all workers together, each with four requests always under way."""
    with Crew() as crew:
        for i in range(options.workers):
            crew.start(_task(server, options, options.calibrate, seed=i))
        crew.join()
    if crew.total.wrong or crew.total.failed or not crew.total.images:
        raise SystemExit(f"soak: no capacity: {[*crew.total.wrong, *crew.total.failed][:3]}")
    return crew.total.images / crew.total.seconds


def _task(server: Server, options: argparse.Namespace, seconds: float, seed: int, rate: float = 0.0) -> Work:
    return Work(
        server.url,
        seconds,
        side=options.soak_side,
        batch=options.soak_batch,
        rate=rate,
        most=16,
        mixed=True,
        count_statuses=bool(rate),
        seed=seed,
    )


def _work(crew: Crew, server: Server, options: argparse.Namespace, rate: float, seconds: float) -> None:
    """Keep all workers at work; kill one of them every so often and put another in its place."""
    chance, end = random.Random(1), time.monotonic() + seconds
    team = [crew.start(_task(server, options, seconds, 100 + i, rate)) for i in range(options.workers)]
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, options.kill_every))
        if (left := end - time.monotonic()) > options.kill_every / 2:
            i = chance.randrange(len(team))
            crew.kill(team[i])
            team[i] = crew.start(_task(server, options, left, 100 + crew.started, rate))


@dataclass
class Fuzzers:
    """Processes that send damaged requests, and what they report."""

    found: dict[str, Found] = field(default_factory=dict)
    _members: list[tuple[subprocess.Popen[str], threading.Thread]] = field(default_factory=list)

    def __enter__(self) -> Fuzzers:
        return self

    def __exit__(self, *exc: object) -> None:
        for process, listener in self._members:
            process.kill()
            process.wait()
            listener.join()

    def start(self, module: str, task: dict[str, Any]) -> None:
        """One more."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)], stdout=subprocess.PIPE, text=True
        )
        total = self.found[module.rpartition("_")[2]] = Found()
        listener = threading.Thread(target=self._listen, args=(process, total), daemon=True)
        listener.start()
        self._members.append((process, listener))

    def join(self, seconds: float) -> None:
        """Wait that long for what they have not sent yet."""
        until = time.monotonic() + seconds
        for process, listener in self._members:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
            listener.join()

    def _listen(self, process: subprocess.Popen[str], total: Found) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            total.sent += report["sent"]
            total.statuses.update(report["statuses"])
            total.problems += report["problems"]


class Memory:
    """Resident memory and open files of a server, once a second."""

    def __init__(self, server: Server) -> None:
        self._server, self._stop = server, threading.Event()
        self._samples: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0) and self._server.alive:
            self._samples.append((self._server.memory(), self._server.descriptors()))

    def summary(self) -> dict[str, Any]:
        """MB and files in a window after the warm-up and in the last one, and how much the first grew."""
        count = len(self._samples)
        length = max(1, int(count * WINDOW))
        early = self._samples[int(count * WARM) :][:length] or [(0, 0)]
        late = self._samples[-length:] or [(0, 0)]
        before, after = (median(memory for memory, _ in window) for window in (early, late))
        return {
            "warm_mb": round(before / 1e6, 1),
            "end_mb": round(after / 1e6, 1),
            "largest_mb": round(max((memory for memory, _ in self._samples), default=0) / 1e6, 1),
            "growth": round(after / before - 1, 4) if before else None,
            "files_warm_and_end": [median(files for _, files in window) for window in (early, late)],
            "mb_every_10_s": [round(memory / 1e6) for memory, _ in self._samples[::10]],
        }


def _found(found: Found) -> dict[str, Any]:
    problems = found.problems
    return {"sent": found.sent, "statuses": dict(found.statuses), "problems": problems[:20]}


def rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, measured, aim) for the table."""
    memory, waits = result["memory"], result["latency_ms"]
    statuses: Counter[str] = Counter(result["statuses_of_good_requests"])
    sent = sum(part["sent"] for part in result["malformed"].values())
    answers: Counter[str] = Counter()
    for part in result["malformed"].values():
        answers.update(part["statuses"])
    return [
        (
            f"soak, {result['minutes']:g} minutes, {result['workers']} workers",
            f"{result['load_images_per_second']:.0f} of {result['capacity_images_per_second']:.0f} images/s",
            f"{LOAD:.0%}",
        ),
        ("workers killed and replaced", f"{result['workers_killed']}", ""),
        (
            "answers checked against their picture, wrong",
            f"{result['answers_checked']}, {len(result['wrong'])}",
            "0 wrong",
        ),
        ("good requests by status", _counts(statuses), "no 5xx but 503"),
        (
            f"{sent} damaged requests by status",
            _counts(answers),
            ">= 10,000; no 5xx but 503",
        ),
        (
            "request, p50 / p95 / p99",
            f"{waits['p50']:.0f} / {waits['p95']:.0f} / {waits['p99']:.0f} ms",
            "",
        ),
        (
            "`/health`, p99 (largest)",
            f"{result['health_ms']['p99']:.1f} ({result['health_ms']['max']:.1f}) ms",
            f"< {AIM_HEALTH:.0f}",
        ),
        (
            "resident memory after warm-up and at the end",
            f"{memory['warm_mb']:.0f} and {memory['end_mb']:.0f} MB ({memory['growth'] or 0:+.1%})",
            f"< {AIM_GROWTH:+.0%}",
        ),
    ]


def _counts(statuses: Counter[str]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))


def failures(result: dict[str, Any]) -> list[str]:
    """What must never be."""
    found = [f"soak: {text}" for text in [*result["wrong"], *result["failed"], *result["health_failures"]]]
    for part in result["malformed"].values():
        found += [f"soak: {problem}" for problem in part["problems"]]
    bad = [s for s in result["statuses_of_good_requests"] if s not in ("200", "503")]
    found += [f"soak: good requests were answered with {status}" for status in bad]
    if not result["alive"]:
        found.append("soak: the server did not survive")
    growth = result["memory"]["growth"]
    if result["minutes"] >= MEMORY_MINUTES and (growth is None or growth >= AIM_GROWTH):
        found.append(f"soak: resident memory grew by {growth:.1%}")
    return found
