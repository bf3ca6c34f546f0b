"""Scoring in the server's own process: one worker thread, with a bounded number of jobs before it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from reward_plugin.queueing import Full, ScoreJob, ScorerInfo
from reward_plugin.scoring import all_dimensions, score_all
from reward_plugin.types import Scorer, ScoreTable


class LocalEngine:
    """Runs jobs one after another in a single thread, so that the event loop stays free to answer.

    A GPU, or a few CPU cores, score one batch after another faster than several at once, and requests already
    carry batches: more threads would only add memory.
    """

    def __init__(self, scorers: Sequence[Scorer], max_waiting: int = 32) -> None:
        """At most `max_waiting` jobs beside the one that runs.

        Raises:
            ConfigError: two scorers give the same dimension.
        """
        all_dimensions(scorers)
        self.max_waiting = max_waiting
        self.jobs = 0
        self._scorers = {scorer.name: scorer for scorer in scorers}
        self._seconds = 1.0  # moving average of one job
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    def describe(self) -> Sequence[ScorerInfo]:
        """The scorers, in order."""
        return [
            ScorerInfo(scorer.name, tuple(scorer.dimensions), dict(scorer.ranges))
            for scorer in self._scorers.values()
        ]

    def check_room(self) -> None:
        """Raise `Full` where one more job would be too many."""
        if self.jobs > self.max_waiting:
            raise Full(max(1, math.ceil(self._seconds * self.max_waiting / 2)))

    def trouble(self) -> str | None:
        """None: the scorers are in this process."""
        return None

    async def run(self, job: ScoreJob) -> ScoreTable:
        """The scores of a job; see `Engine.run`."""
        self.check_room()
        self.jobs += 1
        future = asyncio.get_running_loop().run_in_executor(self._worker, self._score, job)
        # counted down when the thread is done, not when a caller that hung up stops waiting
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Finish the job that runs, drop those that wait."""
        self._worker.shutdown(cancel_futures=True)

    def _score(self, job: ScoreJob) -> ScoreTable:
        start = time.monotonic()
        try:
            scorers = [self._scorers[name] for name in job.scorers]
            return score_all(scorers, job.images, job.prompts, job.max_pixels, job.exif)
        finally:
            self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - start)

    def _done(self, future: asyncio.Future[ScoreTable]) -> None:
        self.jobs -= 1
        if not future.cancelled():
            future.exception()  # taken note of, even when nobody waits any more
