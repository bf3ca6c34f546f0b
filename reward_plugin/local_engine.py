"""Scoring in the server's own process: pictures are decoded while the batch before is scored.

A job passes three stages: it waits in a list, one thread decodes it (with the help of a few more), and one
thread scores it. At most two jobs are decoded at a time, so memory does not grow with the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from reward_plugin.errors import ConfigError, RewardError, ScorerFailed
from reward_plugin.queueing import Full, ScoreJob, ScorerInfo
from reward_plugin.scoring import all_dimensions, score_decoded
from reward_plugin.server.decoding import MAX_TOTAL_PIXELS, Picture, decode
from reward_plugin.server.describe import describe
from reward_plugin.types import Scorer, ScoreTable

log = logging.getLogger(__name__)

#: So many batches that fail one after another are not the pictures' fault.
FAILURES = 3
#: Seconds that a client is told to stay away, at most.
LONGEST_RETRY = 60
#: Seconds after which a batch that is still being scored is taken for one that will never be.
STALLED = 300.0
#: Seconds that `close` waits for what is being scored, at most.
LONGEST_CLOSE = 20.0


@dataclass(eq=False)
class _Item:
    """A job on its way through the threads."""

    job: ScoreJob
    result: Future[ScoreTable] = field(default_factory=Future)
    taken: float = field(default_factory=time.monotonic)

    def goes_with(self, other: _Item) -> bool:
        """Whether both can be scored in one batch."""
        a, b = self.job, other.job
        return (a.scorers, a.prompts is None, a.max_pixels, a.exif) == (
            b.scorers, b.prompts is None, b.max_pixels, b.exif,
        )  # fmt: skip


@dataclass(eq=False)
class _Decoded:
    item: _Item
    good: list[Picture]
    errors: list[str | None]


class LocalEngine:
    """Runs jobs one after another in a single thread, so that the event loop stays free to answer.

    A GPU, or a few CPU cores, score one batch after another faster than several at once, and requests already
    carry batches: more threads would only add memory.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        max_waiting: int = 32,
        *,
        specs: Sequence[Mapping[str, Any]] | None = None,
        coalesce: int = 0,
        threads: int | None = None,
        max_total_pixels: int = MAX_TOTAL_PIXELS,
    ) -> None:
        """Take loaded scorers; threads start with the first job.

        Args:
            scorers: with different names and dimensions.
            max_waiting: jobs that wait beside the one that is scored.
            specs: the config entries that the scorers were built from, for `describe`.
            coalesce: waiting jobs are scored as one batch while it has at most so many pictures; 0 scores
                each by itself, so that the last digits of a score do not depend on who else asks.
            threads: that decode; None takes as many as there are CPUs, up to four.
            max_total_pixels: of the pictures of one job together; more raise `TooLarge`.

        Raises:
            ConfigError: two scorers have the same name or give the same dimension.
        """
        all_dimensions(scorers)
        self._scorers = {scorer.name: scorer for scorer in scorers}
        if len(self._scorers) != len(scorers):
            raise ConfigError("scorers: two have the same name; drop one of them")
        self.observe: Callable[[float, float], None] = lambda waited, scored: None
        self.jobs = 0
        self.max_waiting, self.coalesce, self.max_total_pixels = max_waiting, coalesce, max_total_pixels
        self._infos = describe(scorers, specs)
        self._seconds = 1.0  # moving average of one batch
        self._failures = 0  # batches in a row that failed
        self._last_failure = ""
        self._scored_since: float | None = None  # when the batch that is scored now was begun
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._room = threading.Semaphore(2)  # one job that is scored, one that is decoded
        self._decoded: queue.SimpleQueue[list[_Decoded] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="decode")
        self._threads: list[threading.Thread] = []

    def describe(self) -> Sequence[ScorerInfo]:
        """The scorers, in order."""
        return self._infos

    def check_room(self) -> None:
        """Raise `Full` where one more job would be too many."""
        if self.jobs > self.max_waiting:
            seconds = math.ceil(self._seconds * self.max_waiting / 2)
            raise Full(min(max(1, seconds), LONGEST_RETRY))

    def trouble(self) -> str | None:
        """Why nothing can be scored, as after several batches in a row that failed; else None."""
        if self._closed:
            return "the server is stopping"
        since = self._scored_since
        if since is not None and (seconds := time.monotonic() - since) > STALLED:
            return f"one batch has been scored for {seconds:.0f} s"
        return self._last_failure if self._failures >= FAILURES else None

    async def run(self, job: ScoreJob) -> ScoreTable:
        """The scores of a job; see `Engine.run`."""
        self.check_room()
        item = _Item(job)
        self._put(item)
        self.jobs += 1
        outcome = asyncio.wrap_future(item.result)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            with self._changed, contextlib.suppress(ValueError):
                self._waiting.remove(item)
            if not item.result.cancel():  # it is being scored: its pictures are in use until that is done
                with contextlib.suppress(Exception):
                    await asyncio.shield(outcome)
            raise
        finally:
            self.jobs -= 1

    def close(self) -> None:
        """Finish the job that is scored, unless that takes too long; drop those that wait."""
        with self._changed:
            self._closed = True
            for item in self._waiting:
                item.result.cancel()
            self._changed.notify_all()
        end = time.monotonic() + LONGEST_CLOSE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.error(
                    "the thread %r is still busy after %g s and is left alone", thread.name, LONGEST_CLOSE
                )
        self._pool.shutdown(cancel_futures=True)

    def _put(self, item: _Item) -> None:
        with self._changed:
            if self._closed:
                raise Full(1)
            if not self._threads:
                for name, work in (("decoding", self._decode), ("scoring", self._score)):
                    self._threads.append(threading.Thread(target=work, name=name, daemon=True))
                    self._threads[-1].start()
            self._waiting.append(item)
            self._changed.notify()

    def _next(self) -> list[_Item]:
        """The job that has waited longest, with those that can be scored with it; none when closed."""
        with self._changed:
            while not self._closed:
                if self._waiting:
                    break
                self._changed.wait()
            if self._closed:
                return []
            batch = [self._waiting.popleft()]
            pictures = len(batch[0].job.images)
            while self._waiting and batch[0].goes_with(self._waiting[0]):
                pictures += len(self._waiting[0].job.images)
                if pictures > self.coalesce:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _decode(self) -> None:
        """The thread between the waiting jobs and the scorers."""
        while True:
            self._room.acquire()
            batch = self._next()
            if not batch:
                self._decoded.put(None)
                return
            decoded = []
            for item in batch:
                job = item.job
                try:
                    limits = {"max_pixels": job.max_pixels, "max_total": self.max_total_pixels}
                    good, errors = decode(job.images, self._pool, exif=job.exif, **limits)
                    decoded.append(_Decoded(item, good, errors))
                except BaseException as error:  # the thread must live on
                    if item.result.set_running_or_notify_cancel():
                        item.result.set_exception(_harmless(error))
            self._decoded.put(decoded)

    def _score(self) -> None:
        """The thread of the scorers."""
        while (batch := self._decoded.get()) is not None:
            self._scored_since = start = time.monotonic()
            wanted = [one for one in batch if one.item.result.set_running_or_notify_cancel()]
            if wanted:
                self._score_batch(wanted)
                end = time.monotonic()
                self._seconds = 0.8 * self._seconds + 0.2 * (end - start)
                for one in wanted:
                    self.observe(start - one.item.taken, end - start)
            del batch, wanted  # and with them the pictures
            self._scored_since = None
            self._room.release()

    def _score_batch(self, batch: list[_Decoded]) -> None:
        """Give every job of a batch its table or its error."""
        try:
            tables = self._tables(batch)
        except BaseException as error:  # the thread must live on
            if len(batch) == 1:
                failure = _harmless(error)
                self._failures, self._last_failure = self._failures + 1, str(failure)
                batch[0].item.result.set_exception(failure)
            else:  # one bad request must not cost the others
                for one in batch:
                    self._score_batch([one])
            return
        self._failures = 0
        for one, table in zip(batch, tables, strict=True):
            one.item.result.set_result(table)

    def _tables(self, batch: list[_Decoded]) -> list[ScoreTable]:
        job = batch[0].item.job
        table = score_decoded(
            [self._scorers[name] for name in job.scorers],
            [picture for one in batch for picture in one.good],
            [error for one in batch for error in one.errors],
            None if job.prompts is None else [text for one in batch for text in one.item.job.prompts or ()],
        )
        if len(batch) == 1:
            return [table]
        tables, start = [], 0
        for one in batch:
            rows = slice(start, start + len(one.errors))
            tables.append(ScoreTable(table.dimensions, table.values[rows], table.errors[rows]))
            start += len(one.errors)
        return tables


def _harmless(error: BaseException) -> Exception:
    """An error for one request to end with: on the event loop a SystemExit would end the whole server, and a
    StopIteration would never arrive.
    """
    if isinstance(error, RewardError):
        return error
    failed = ScorerFailed(f"the batch failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed
