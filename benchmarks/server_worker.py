"""One training worker, as a reward server sees it: a process that keeps sending stamped pictures through
`RewardClient` and checks every answer.

    python -m benchmarks.server_worker '{"url": "http://127.0.0.1:8199", "seconds": 5, "side": 512}'

Prints a JSON line of what happened since the last one every `report` seconds, and one at the end, so that a
worker that is killed loses little of its account. Without `rate` it always has `concurrency` requests under
way (closed loop). With `rate`, in requests per second, they start at random times (Poisson) whether earlier
ones are answered or not (open loop), and a request's time counts from the moment at which it was to start.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from benchmarks.server_stamp import blank, expected, prompt_of, stamp
from reward_plugin.access import read_token
from reward_plugin.client import RewardClient
from reward_plugin.errors import RewardError
from reward_plugin.images import to_png
from reward_plugin.types import ImageLike, ScoreTable

#: Sent among the pictures of a mixed batch; its row must be missing and must not disturb its neighbours.
DAMAGED, SMALL = b"\x89PNG\r\n\x1a\nnot a picture", 64


@dataclass(frozen=True)
class Work:
    """What a worker does.

    Attributes:
        url: The server.
        seconds: How long.
        side: Width and height of a picture.
        batch: Pictures in one request.
        concurrency: Requests under way at once.
        rate: Requests per second of the open loop; 0 is the closed loop.
        most: Requests that may wait for an answer in the open loop; a further one starts late.
        mixed: Send every fourth batch as small PNG files, with one damaged among them.
        count_statuses: Count the status of every response, which puts a layer into the client.
        seed: Of serials and of arrival times.
        report: Seconds between two lines.
        ca_file: Certificates to trust an https server by; the token is that of the environment.
    """

    url: str
    seconds: float
    side: int = 512
    batch: int = 16
    concurrency: int = 4
    rate: float = 0.0
    most: int = 64
    mixed: bool = False
    count_statuses: bool = False
    seed: int = 0
    report: float = 1.0
    ca_file: str | None = None


@dataclass
class Account:
    """What happened since the last report."""

    images: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    missing: int = 0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


class Counting(httpx.HTTPTransport):
    """The ordinary transport; counts what comes back."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request."""
        response = super().handle_request(request)
        self._worker.note_status(str(response.status_code))
        return response


class Worker:
    """Sends, checks, counts."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._random = random.Random(work.seed)
        self._serial = self._random.randrange(1 << 24)
        self._free: deque[list[np.ndarray]] = deque()
        self._account, self._lock = Account(), threading.Lock()
        self._slots = threading.Semaphore(work.most if work.rate else work.concurrency)
        self._under_way = 0
        self._sent = 0
        self._cpu = 0.0

    def run(self) -> None:
        """Until its time is over and the last answer is there."""
        work = self.work
        transport = Counting(self) if work.count_statuses else None
        with RewardClient(
            work.url,
            token=read_token(None),
            ca_file=work.ca_file,
            batch_size=work.batch,
            concurrency=work.concurrency,
            transport=transport,
        ) as client:
            client.score([blank(8)], ["a first request, to open a connection"])
            start = due = reported = time.perf_counter()
            self._cpu = sum(os.times()[:2])
            while (now := time.perf_counter()) < start + work.seconds:
                if now - reported >= work.report:
                    self._print(now - reported)
                    reported = now
                if work.rate:
                    due += self._random.expovariate(work.rate)
                    time.sleep(max(0.0, due - time.perf_counter()))
                    if self._slots.acquire(timeout=work.report):
                        self._send(client, due)
                elif self._slots.acquire(timeout=0.1):
                    self._send(client, time.perf_counter())
            while self._under_way and time.perf_counter() < start + work.seconds + 60:
                time.sleep(0.005)
            self._print(time.perf_counter() - reported)

    def note_status(self, status: str) -> None:
        """Count a response."""
        with self._lock:
            self._account.statuses[status] += 1

    def _send(self, client: RewardClient, due: float) -> None:
        damaged = self.work.mixed and self._sent % 4 == 3
        arrays = (
            self._new_batch(SMALL) if damaged else (self._free or [self._new_batch(self.work.side)]).pop()
        )
        serials = [(self._serial + i) & 0xFFFFFF for i in range(self.work.batch)]
        self._serial += self.work.batch
        self._sent += 1
        for array, serial in zip(arrays, serials, strict=True):
            stamp(array, serial)
        images: list[ImageLike] = list(arrays)
        if damaged:
            images = [to_png(array) for array in arrays]
            images[self._sent // 4 % len(images)] = DAMAGED
        with self._lock:
            self._under_way += 1

        def done(future: Future[ScoreTable]) -> None:
            self._check(future, serials, time.perf_counter() - due, damaged)
            if not damaged:
                self._free.append(arrays)
            with self._lock:
                self._under_way -= 1
            self._slots.release()

        client.submit(images, [prompt_of(serial) for serial in serials]).add_done_callback(done)

    def _new_batch(self, side: int) -> list[np.ndarray]:
        return [blank(side, seed) for seed in range(self.work.batch)]

    def _check(self, future: Future[ScoreTable], serials: list[int], seconds: float, damaged: bool) -> None:
        try:
            table = future.result()
        except RewardError as error:
            with self._lock:
                self._account.failed.append(f"{type(error).__name__}: {error}")
            return
        right = expected(serials)
        wrong = []
        missing = [i for i, error in enumerate(table.errors) if error is not None]
        for i, row in enumerate(table.values):
            if i not in missing and not np.array_equal(row, right[i]):
                wrong.append(f"picture {serials[i]}: {row.tolist()} instead of {right[i].tolist()}")
        if len(table) != len(serials) or len(missing) != int(damaged):
            wrong.append(f"{len(table)} rows for {len(serials)} pictures, missing are {missing}")
        with self._lock:
            self._account.latencies.append(seconds)
            self._account.images += len(table) - len(missing)
            self._account.missing += len(missing)
            self._account.wrong += wrong

    def _print(self, seconds: float) -> None:
        with self._lock:
            account, self._account = self._account, Account()
        before, self._cpu = self._cpu, sum(os.times()[:2])
        line: dict[str, Any] = {"seconds": seconds, "cpu": self._cpu - before, **vars(account)}
        print(json.dumps(line), flush=True)


def main() -> None:
    """Do the work that the command line describes."""
    Worker(Work(**json.loads(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
