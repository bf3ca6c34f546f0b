"""The Ray engine: options, one replica by itself and, where Ray is installed, replicas on this machine."""

import asyncio
import importlib.util
import os
import signal
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from starlette.testclient import TestClient

from reward_plugin.app import build_app
from reward_plugin.errors import CheckpointError, ConfigError, ScorerFailed
from reward_plugin.images import to_npy, to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import Full, ScoreJob
from reward_plugin.ray_cluster import reason
from reward_plugin.ray_engine import RayEngine
from reward_plugin.ray_options import RayOptions
from reward_plugin.ray_replica import Replica
from reward_plugin.scorers import SCORERS, build_scorers
from reward_plugin.types import ScoreTable
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.helpers import Broken, ChannelMeans

CHECKPOINT = Path(__file__).resolve().parents[1] / "data/unipercept/checkpoint"
UNIPERCEPT = {"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu", "dtype": "float32"}
SPECS = [{"name": "pixels"}, UNIPERCEPT]

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,  # not imported: a cluster's settings are read at the import
    reason="Ray is an extra of about 110 MB: pip install -e .[ray]",
)


def picture(seed: int, size: int = 48) -> bytes:
    return to_npy(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def job(*images: bytes | memoryview, scorers: tuple[str, ...] = ("pixels",)) -> ScoreJob:
    return ScoreJob(images, None, scorers, id="test")


def local(work: ScoreJob) -> ScoreTable:
    engine = LocalEngine(build_scorers([spec for spec in SPECS if spec["name"] in work.scorers]))
    try:
        return asyncio.run(engine.run(work))
    finally:
        engine.close()


def same(table: ScoreTable, expected: ScoreTable) -> bool:
    return (
        table.dimensions == expected.dimensions
        and table.errors == expected.errors
        and table.values.tobytes() == expected.values.tobytes()
    )


# Without Ray


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicas": 0}, r"ray\.num_replicas 0: must be at least 1"),
        ({"num_gpus": -1}, r"ray\.num_gpus -1"),
        ({"object_store_bytes": 1}, r"ray\.object_store_bytes 1"),
        ({"address": "ray://head:10001"}, "runs on a node of the cluster"),
        (
            {"scorers": {"pixels": {"replicas": 2}}},
            r"ray\.scorers\.pixels: unknown key 'replicas'.*num_replicas",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        RayOptions(**options)


def test_options_of_one_scorer():
    options = RayOptions(num_replicas=4, num_gpus=1, scorers={"pixels": {"num_gpus": 0}})
    assert (options.of("pixels").num_gpus, options.of("pixels").num_replicas) == (0, 4)
    assert options.of("unipercept").num_gpus == 1
    with pytest.raises(ConfigError, match=r"ray\.scorers\.pixels: ray\.num_replicas 0"):
        RayOptions(scorers={"pixels": {"num_replicas": 0}}).of("pixels")


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        ([], {}, "scorers is empty"),
        ([{"name": "pixels"}] * 2, {}, "'pixels' is there 2 times"),
        ([{"name": "pixels"}], {"scorers": {"clip": {"num_gpus": 1}}}, "no scorer 'clip' is served"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_starts(specs, options, message):
    with pytest.raises(ConfigError, match=message):
        RayEngine(specs, RayOptions(**options))


def test_the_reason_is_found_in_rays_report():
    report = (
        "Deploying application rewards-unipercept failed: The deployment failed to start 1 times in a row.\n"
        "ray::ServeReplica:rewards-unipercept:unipercept.initialize_and_get_metadata() (pid=1)\n"
        '  File "/somewhere/source.py", line 3, in find_folder\n'
        "reward_plugin.errors.CheckpointError: no folder missing/, and not a hub id, either"
    )
    error = reason(report)
    assert type(error) is CheckpointError and str(error) == "no folder missing/, and not a hub id, either"


def test_a_replica_scores_as_the_local_engine_does():
    work = job(picture(1), b"junk", picture(2), scorers=("unipercept", "pixels"))

    async def ask() -> tuple[Any, float]:
        replica = Replica(UNIPERCEPT, room=2, coalesce=0, stuck_after=60)
        assert (await replica.describe()).dimensions == ("iaa", "iqa", "ista")
        await replica.check_health()
        return await replica.score(work)

    table, seconds = asyncio.run(ask())
    assert same(table, local(job(*work.images, scorers=("unipercept",)))) and seconds > 0
    assert table.errors[0] is None and "not one of PNG" in table.errors[1]


def test_a_replica_that_cannot_score_does_not_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SCORERS, "broken", Broken)
    with pytest.raises(ScorerFailed, match="out of memory"):
        Replica({"name": "broken"}, room=2, coalesce=0, stuck_after=60)


class Breakable(ChannelMeans):
    broken = False

    def score(self, images: Any, prompts: Any = None) -> ScoreTable:
        if self.broken:
            raise RuntimeError("device lost")
        return super().score(images, prompts)


def with_breakable(
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Replica, Breakable], Coroutine[Any, Any, None]],
    stuck_after: float,
) -> None:
    scorer = Breakable()
    monkeypatch.setitem(SCORERS, "channels", lambda: scorer)
    asyncio.run(use(Replica({"name": "channels"}, 8, 0, stuck_after), scorer))


def test_a_replica_whose_device_is_lost_asks_to_be_replaced(monkeypatch: pytest.MonkeyPatch):
    async def use(replica: Replica, scorer: Breakable) -> None:
        scorer.broken = True
        for _ in range(3):
            answer, _ = await replica.score(job(picture(1)))
            assert isinstance(answer, tuple) and answer[0] == "failed" and "device lost" in answer[1]
        with pytest.raises(ScorerFailed, match="device lost"):
            await replica.check_health()
        scorer.broken = False  # it was the pictures: the grey one can be scored
        await replica.check_health()

    with_breakable(monkeypatch, use, 60)


def test_a_replica_that_is_stuck_asks_to_be_replaced(monkeypatch: pytest.MonkeyPatch):
    async def use(replica: Replica, scorer: Breakable) -> None:
        scorer.go.clear()
        asked = asyncio.ensure_future(replica.score(job(picture(1))))
        await asyncio.sleep(0.3)
        with pytest.raises(ScorerFailed, match="no answer for"):
            await replica.check_health()
        scorer.go.set()
        await asked
        await replica.check_health()

    with_breakable(monkeypatch, use, 0.2)


# With Ray: one cluster for all tests, because it takes seconds to start


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    options = RayOptions(
        name=f"test-{uuid.uuid4().hex[:8]}",
        num_replicas=2,
        num_cpus=0.1,
        scorers={"unipercept": {"num_replicas": 1}},
        max_ongoing_requests=2,
        max_queued_requests=4,
        object_store_bytes=100 * 1024 * 1024,
    )
    engine = RayEngine(SPECS, options)
    yield engine
    engine.close()


def replicas(engine: RayEngine) -> set[int]:
    """Process ids of the replicas of `pixels`."""
    title = f"ServeReplica:{engine.options.name}-pixels:"
    return {p.pid for p in psutil.process_iter(["cmdline"]) if title in " ".join(p.info["cmdline"] or ())}


async def patiently(engine: RayEngine, work: ScoreJob, limit: float = 120) -> ScoreTable:
    """As a client does: come back where the queue is full."""
    end = time.monotonic() + limit
    while True:
        try:
            return await engine.run(work)
        except Full:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_answers_are_those_of_the_local_engine_bit_for_bit(engine: RayEngine):
    names = ("unipercept", "pixels")
    work = job(picture(1), b"junk", picture(2, 64), to_png(np.zeros((5, 7, 3), np.uint8)), scorers=names)
    table = asyncio.run(engine.run(work))
    columns = [local(job(*work.images, scorers=(name,))) for name in names]
    assert same(table, ScoreTable.merge(columns))
    assert [info.dimensions for info in engine.describe()] == [columns[1].dimensions, columns[0].dimensions]
    assert engine.trouble() is None and engine.jobs == 0


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_application_answers_alike(engine: RayEngine):
    kind, body = encode_request(ScoreRequest((picture(3), b"junk"), ("a cat", "a dog"), id="seven"))
    answers = [
        TestClient(app).post("/v1/score", content=body, headers={"Content-Type": kind}).json()
        for app in (build_app(engine=engine), build_app(build_scorers(SPECS)))
    ]
    assert answers[0] == answers[1] and answers[0]["values"][0][0] is not None


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_is_started_here_listens_on_loopback_only(engine: RayEngine):
    family = psutil.Process().children(recursive=True)
    listening = [
        (process.name(), one.laddr.ip)
        for process in family
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert not [(name, ip) for name, ip in listening if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_queue_is_full_and_costs_nobody_else(engine: RayEngine):
    works = [job(picture(seed, 192)) for seed in range(24)]

    async def flood() -> list[Any]:
        return await asyncio.gather(*(engine.run(work) for work in works), return_exceptions=True)

    answers = asyncio.run(flood())
    refused = [answer for answer in answers if isinstance(answer, Full)]
    assert refused and all(answer.retry_after >= 1 for answer in refused)
    taken = [(work, answer) for work, answer in zip(works, answers, strict=True) if answer not in refused]
    assert taken and all(same(answer, local(work)) for work, answer in taken)
    assert engine.jobs == 0


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_replica_costs_no_request_and_is_replaced(engine: RayEngine):
    works = [job(picture(seed, 160), picture(seed + 1000, 160)) for seed in range(60)]
    before = replicas(engine)
    assert len(before) == 2
    victim = min(before)
    done = 0

    async def ask(work: ScoreJob, turn: asyncio.Semaphore) -> ScoreTable:
        nonlocal done
        async with turn:
            table = await patiently(engine, work)
            done += 1
            if done == 10:
                os.kill(victim, signal.SIGKILL)
            return table

    async def load() -> list[ScoreTable]:
        turn = asyncio.Semaphore(5)
        return await asyncio.gather(*(ask(work, turn) for work in works))

    tables = asyncio.run(load())
    assert all(same(table, local(work)) for work, table in zip(works, tables, strict=True))
    end = time.monotonic() + 300
    while len(now := replicas(engine) - {victim}) < 2:
        assert time.monotonic() < end, f"replicas: {now}"
        time.sleep(0.2)


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_request_too_many_for_the_cluster_is_an_error_not_a_wait(engine: RayEngine):
    from reward_plugin import ray_cluster

    with pytest.raises(ConfigError, match=r"num_gpus: 1000 GPUs are wanted \(pixels 1000\), the cluster has"):
        ray_cluster.deploy([{"name": "pixels"}], RayOptions(num_gpus=1000))


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_scorer_that_cannot_be_built_is_told_as_in_one_process(engine: RayEngine):
    from reward_plugin import ray_cluster

    options = RayOptions(name=f"{engine.options.name}-bad", num_cpus=0.1)
    with pytest.raises(ConfigError, match=r"^scorer 'pixels': unknown option 'nonsense'"):
        ray_cluster.deploy([{"name": "pixels", "nonsense": 1}], options)
