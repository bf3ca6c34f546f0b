"""Scoring on Ray Serve: one deployment per scorer, its replicas spread over GPUs and nodes.

The application stays in the server's process. A request is put into Ray's object store once, every scorer
that it names gets a reference, and the tables that come back are put side by side. A replica is a
`LocalEngine` of one scorer, so a request that is scored by itself gets the same bits as in one process.

A replica that dies takes requests with it: they are scored by another one, and Ray starts a new replica,
which takes part once it has loaded its model and made a first score.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_plugin import ray_cluster
from reward_plugin.errors import ConfigError
from reward_plugin.queueing import Full, ScoreJob, ScorerInfo
from reward_plugin.ray_options import RayOptions
from reward_plugin.ray_request import Request
from reward_plugin.types import ScoreTable

log = logging.getLogger(__name__)

#: Seconds between two looks at how many replicas are running.
WATCH_PERIOD = 2.0
#: Seconds without such a look after which the cluster counts as lost.
LOST_AFTER = 30.0
#: Seconds that a client is told to stay away, at most.
LONGEST_RETRY = 60


class RayEngine:
    """An `Engine` whose scorers live in the replicas of a Ray cluster."""

    def __init__(self, specs: Sequence[Mapping[str, Any]], options: RayOptions | None = None) -> None:
        """Start or join the cluster and load the scorers; comes back when all replicas are ready.

        Args:
            specs: the config's `scorers`, each `{name: ..., option: ...}`, every name once.
            options: see `RayOptions`.

        Raises:
            ConfigError: wrong options, Ray is missing or does not answer, or has too few GPUs.
            CheckpointError: a model cannot be loaded.
            ScorerFailed: a first score could not be made.
        """
        self.options = options or RayOptions()
        names = Counter(str(spec.get("name")) for spec in specs)
        self.options.check(names)
        for name, times in names.items():
            if times > 1:
                raise ConfigError(f"scorers: {name!r} is there {times} times; Ray deploys each scorer once")
        if not specs:
            raise ConfigError("scorers is empty; name at least one, such as {name: unipercept, path: FOLDER}")
        self.observe: Callable[[float, float], None] = lambda waited, scored: None
        self.jobs = 0
        self.resent = 0  # times that a request went to another replica because the one before died
        each = [self.options.of(name) for name in names]
        self._capacity = min(own.num_replicas * own.max_ongoing_requests for own in each)
        self._capacity += self.options.max_queued_requests
        self._seconds = 1.0  # moving average of one job, its waiting included
        self._closed = threading.Event()
        self._started_here = ray_cluster.join(
            self.options, sum(own.num_replicas * own.num_cpus for own in each)
        )
        self._running: dict[str, int] = {}
        handles: dict[str, Any] = {}
        try:
            handles = ray_cluster.deploy(specs, self.options)
            self._infos = [handle.describe.remote().result(timeout_s=60) for handle in handles.values()]
            _check_dimensions(self._infos)
        except BaseException:
            ray_cluster.leave(list(handles), self._started_here)
            raise
        self._handles = dict(zip([info.name for info in self._infos], handles.values(), strict=True))
        self._wanted = dict(zip(handles, [own.num_replicas for own in each], strict=True))
        self._running = dict(self._wanted)
        self._looked = time.monotonic()
        threading.Thread(target=self._watch, name="replicas", daemon=True).start()

    def describe(self) -> Sequence[ScorerInfo]:
        """The scorers, in order, as their replicas describe them."""
        return self._infos

    def check_room(self) -> None:
        """Raise `Full` where one more job would be too many, or nobody is there to take it."""
        if self.jobs >= self._capacity or self._closed.is_set() or self._lost():
            raise self._full()

    def trouble(self) -> str | None:
        """Which scorer has no running replica, as of the last two seconds; else None."""
        if self._closed.is_set():
            return "the server is stopping"
        if self._lost():
            return "the Ray cluster does not answer; unless it comes back, restart the server"
        down = [self._scorer(name) for name, count in self._running.items() if not count]
        return f"no replica of {', '.join(down)} is running" if down else None

    async def run(self, job: ScoreJob) -> ScoreTable:
        """The scores of a job; see `Engine.run`.

        Raises:
            Full: the replicas and the places before them are taken.
            TooLarge: a replica would not decode so many pixels at once.
            ScorerFailed: a scorer failed on the whole batch, or `retries` replicas died over it.
        """
        self.check_room()
        self.jobs += 1
        start = time.monotonic()
        try:
            reference = await _to_the_end(asyncio.to_thread(_put, job))
            asked = [asyncio.ensure_future(self._ask(name, reference, job)) for name in job.scorers]
            try:
                answers = await asyncio.gather(*asked)
            except BaseException:
                for one in asked:
                    one.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
                raise
        finally:
            self.jobs -= 1
        seconds = time.monotonic() - start
        self._seconds = 0.8 * self._seconds + 0.2 * seconds
        scored = max(taken for _, taken in answers)
        self.observe(max(0.0, seconds - scored), scored)
        return ScoreTable.merge([table for table, _ in answers])

    def close(self) -> None:
        """Stop the deployments, and the cluster where it was started here."""
        if not self._closed.is_set():
            self._closed.set()
            ray_cluster.leave(list(self._wanted), self._started_here)

    async def _ask(self, scorer: str, reference: Any, job: ScoreJob) -> tuple[ScoreTable, float]:
        """One scorer's table, and the seconds that its replica had it; asks again where a replica died."""
        request = Request(self._handles[scorer], scorer, reference, job.id, self.options.retries)
        try:
            return await request.answer()
        finally:
            self.resent += request.resent

    def _lost(self) -> bool:
        return time.monotonic() - self._looked > LOST_AFTER

    def _scorer(self, application: str) -> str:
        return application.removeprefix(f"{self.options.name}-")

    def _full(self) -> Full:
        return Full(min(max(1, math.ceil(self._seconds / 2)), LONGEST_RETRY))

    def _watch(self) -> None:
        """The thread that keeps count of the replicas, and says so when one is lost or back."""
        while not self._closed.wait(WATCH_PERIOD):
            try:
                running = ray_cluster.running_replicas(list(self._wanted))
            except Exception as error:
                log.warning("the Ray cluster does not tell its state: %s", error)
                continue
            for name, count in running.items():
                if count != self._running[name]:
                    scorer = self._scorer(name)
                    log.warning("%s: %d of %d replicas are running", scorer, count, self._wanted[name])
            self._running, self._looked = running, time.monotonic()


def _put(job: ScoreJob) -> Any:
    """The job in Ray's object store; views into the request's body become bytes of their own."""
    import ray

    images = tuple(bytes(image) for image in job.images)
    return ray.put(ScoreJob(images, job.prompts, job.scorers, job.max_pixels, job.exif, job.id))


def _check_dimensions(infos: Sequence[ScorerInfo]) -> None:
    owners: dict[str, str] = {}
    for info in infos:
        for dimension in info.dimensions:
            if owners.setdefault(dimension, info.name) != info.name:
                raise ConfigError(
                    f"scorers {owners[dimension]!r} and {info.name!r} both give {dimension!r}; "
                    "drop one of them"
                )


async def _to_the_end(work: Any) -> Any:
    """The result of `work`; cancelled, it is cancelled only when the work is done and holds nothing more."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
