"""The Ray engine on a real cluster of this machine, started once for all of these tests.

Other processes answer here, on a machine that may be busy with something else: nothing depends on how long
that takes or in which order requests arrive, every wait is bounded, and what fails shows Ray's logs.
"""

import asyncio
import importlib.util
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from reward_plugin import ray_engine
from reward_plugin.app import build_app
from reward_plugin.errors import CheckpointError, ConfigError, ScorerFailed, TooLarge
from reward_plugin.images import to_npy, to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import Full, ScoreJob
from reward_plugin.ray_engine import RayEngine
from reward_plugin.ray_options import RayOptions
from reward_plugin.scorers import build_scorers
from reward_plugin.types import ScoreTable
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.gated import DEADLY_WIDTH
from tests.reward.helpers import plain
from tests.reward.ray_service import (
    PATIENCE,
    SPECS,
    Service,
    command,
    happens,
    job,
    patiently,
    picture,
    running,
    same,
    until,
)

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,  # not imported: a cluster's settings are read at the import
        reason="Ray is not installed: pip install -e .[ray]",
    ),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test starts the cluster; each of its waits is shorter
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def engine(service: Service) -> RayEngine:
    return service.engine


def local(work: ScoreJob) -> ScoreTable:
    """What one process gives."""
    engine = LocalEngine(build_scorers([spec for spec in SPECS if spec["name"] in work.scorers]))
    try:
        return asyncio.run(engine.run(work))
    finally:
        engine.close()


class Kept:
    """The engine of all tests, for an application that would close it at its end."""

    def __init__(self, engine: RayEngine) -> None:
        vars(self)["_engine"] = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._engine, name, value)

    def close(self) -> None:
        pass


def grey(level: int) -> bytes:
    """A picture whose means are `level`."""
    return to_npy(plain(level, level))


def gated(*levels: int, name: str = "test") -> ScoreJob:
    return job(*(grey(level) for level in levels), scorers=("gated",), name=name)


def means(table: ScoreTable) -> list[float]:
    assert table.errors == (None,) * len(table)
    return [row[0] for row in table.values.tolist()]


def test_answers_are_those_of_the_local_engine_bit_for_bit(service: Service, engine: RayEngine):
    names = ("unipercept", "pixels")
    work = job(picture(1), b"junk", picture(2, 64), to_png(np.zeros((5, 7, 3), np.uint8)), scorers=names)
    table = service.run(engine.run(work))
    columns = [local(job(*work.images, scorers=(name,))) for name in names]
    assert same(table, ScoreTable.merge(columns))
    assert engine.trouble() is None and engine.jobs == 0


def test_the_application_answers_alike(engine: RayEngine):
    kind, body = encode_request(ScoreRequest((picture(3), b"junk"), ("a cat", "a dog"), ("pixels",), id="7"))
    here = LocalEngine(build_scorers(SPECS), specs=SPECS)
    answers, told = [], []
    for app in (build_app(engine=Kept(engine)), build_app(engine=here)):
        with TestClient(app) as client:
            until(lambda: client.get("/ready").status_code == 200, "ready")
            answers.append(client.post("/v1/score", content=body, headers={"Content-Type": kind}).json())
            told.append(client.get("/v1/scorers").json()["scorers"])
            until(lambda: "reward_scoring_seconds_count 2.0" in client.get("/metrics").text, "counted")
            counted = client.get("/metrics").text
            assert client.get("/health").json() == {"status": "alive", "requests": 0}
        assert "reward_ready 1.0" in counted
        assert 'reward_images_total{outcome="missing"} 1.0' in counted
    assert answers[0] == answers[1] and answers[0]["values"][0][0] is not None
    assert answers[0]["values"][1] == [None] * 4 and "not one of PNG" in answers[0]["errors"][1]
    assert told[0][:2] == told[1] and told[1][1]["precision"] == "float32"


def test_all_that_a_request_says_reaches_the_replica(service: Service, engine: RayEngine):
    halves = np.repeat(np.array([10, 10, 30, 30], np.uint8), 3).reshape(1, 4, 3).repeat(4, axis=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 10 above 30, rather than 10 left of it
    file = io.BytesIO()
    Image.fromarray(halves).save(file, "PNG", exif=exif)
    images, prompts = (file.getvalue(), picture(1), grey(9)), ("a", "bb", "ccc")
    table = service.run(engine.run(ScoreJob(images, prompts, ("gated", "pixels"), 1000, "apply", "all")))
    assert table.dimensions[:2] == ("red", "letters") and len(table.dimensions) == 6
    assert table.values[[0, 2], :2].tolist() == [[20, 1], [9, 3]]
    assert table.errors[0] is None and "1000" in str(table.errors[1]) and table.errors[2] is None
    with pytest.raises(TooLarge, match="pixels"):
        Image.new("1", (8000, 8000)).save(huge := io.BytesIO(), "PNG")
        service.run(engine.run(job(*[huge.getvalue()] * 20)))


def test_replicas_share_a_gpu(engine: RayEngine):
    """The cluster has one, as Ray counts: nobody looks whether it is there."""
    import ray

    from reward_plugin import ray_cluster

    options = RayOptions(name=f"{engine.options.name}-gpu", num_replicas=2, num_cpus=0.1, num_gpus=0.5)
    try:
        (handle,) = ray_cluster.deploy([{"name": "pixels"}], options).values()
        until(lambda: not ray.available_resources().get("GPU"), "the GPU is taken")
        work = job(picture(4), picture(5))
        answer, _ = handle.score.remote(ray.put(work)).result(timeout_s=PATIENCE)
        assert same(answer, local(work))
    finally:
        ray_cluster.leave_applications([f"{options.name}-pixels"])


def test_a_cluster_that_does_not_answer_is_called_lost(engine: RayEngine, monkeypatch: pytest.MonkeyPatch):
    before = time.monotonic()
    until(lambda: engine._looked > before, "a look at the cluster")
    monkeypatch.setattr(ray_engine, "LOST_AFTER", -1.0)
    assert "does not answer" in str(engine.trouble())
    with pytest.raises(Full):
        engine.check_room()


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


async def post(app: FastAPI, level: int) -> httpx.Response:
    kind, body = encode_request(ScoreRequest((grey(level),), None, ("gated",), id=str(level)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=PATIENCE) as client:
        return await client.post("/v1/score", content=body, headers={"Content-Type": kind})


def test_past_the_bound_a_request_is_sent_away_and_the_others_are_answered(service: Service):
    """One replica of `gated` with four places, and four places before it."""
    app = build_app(engine=Kept(service.engine))

    async def flood() -> tuple[httpx.Response, list[httpx.Response]]:
        with service.gate("held"):
            asked = [asyncio.ensure_future(post(app, level)) for level in range(8)]
            await happens(lambda: service.engine.jobs == 8, "eight requests in the engine")
            refused = await post(app, 100)
        return refused, await asyncio.gather(*asked)

    refused, answers = service.run(flood())
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
    assert [answer.status_code for answer in answers] == [200] * 8
    assert [answer.json()["values"] for answer in answers] == [[[level, 0]] for level in range(8)]
    assert service.engine.jobs == 0


async def in_turn(service: Service, count: int, pictures: int) -> list[asyncio.Task[ScoreTable]]:
    """Requests for `gated`, the next one sent when the one before is in its replica's queue."""
    asked = []
    for level in range(count):
        work = gated(*range(level, level + pictures), name=f"turn {level}")
        asked.append(asyncio.ensure_future(service.engine.run(work)))
        await service.has(work.id)
    return asked


def test_waiting_requests_are_scored_as_one_batch(service: Service):
    async def ask() -> list[ScoreTable]:
        with service.gate("held"):
            asked = await in_turn(service, 4, 2)
        return await asyncio.gather(*asked)

    service.batches()
    tables = service.run(ask())
    assert [means(table) for table in tables] == [[level, level + 1] for level in range(4)]
    # one is scored and one decoded while the other two wait; or the decoder took a moment to wake up
    batches = service.batches()
    assert sum(batches) == 8 and max(batches) >= 4


def test_a_request_whose_client_has_gone_is_not_scored(service: Service):
    """It leaves the replica's queue; one that is being scored could not."""

    scored: list[int] = []

    async def ask() -> list[ScoreTable]:
        replica = service.engine._handles["gated"]
        with service.gate("held"):
            asked = await in_turn(service, 3, 3)
            await happens(lambda: service.batches(scored), "the first is being scored")
            asked.append(asyncio.ensure_future(service.engine.run(gated(50, 51, 52, name="gone"))))
            await service.has("gone")
            asked[3].cancel()
            await asyncio.wait([asked[3]])
            assert asked[3].cancelled() and service.engine.jobs == 3
            # there is a place for this call only when the request has left
            await replica.describe.remote()
        return await asyncio.gather(*asked[:3])

    service.batches()
    tables = service.run(ask())
    assert [means(table) for table in tables] == [[level, level + 1, level + 2] for level in range(3)]
    assert sum(service.batches(scored)) == 9


class Failing:
    """Stands for the handle of a deployment: a call waits for `go` and fails."""

    def __init__(self) -> None:
        self.go, self.score = asyncio.Event(), self

    async def remote(self, reference: Any) -> Any:
        await self.go.wait()
        return ("failed", "device lost"), 0.0


def test_where_one_scorer_fails_the_others_are_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    async def ask() -> ScoreTable:
        monkeypatch.setitem(service.engine._handles, "pixels", failing := Failing())
        with service.gate("held"):
            first = asyncio.ensure_future(service.engine.run(gated(1)))
            await happens(lambda: service.batches(), "the first is being scored")
            both = job(grey(2), scorers=("gated", "pixels"), name="both")
            second = asyncio.ensure_future(service.engine.run(both))
            await service.has("both")
            failing.go.set()
            with pytest.raises(ScorerFailed, match="device lost"):
                await second
            assert service.engine.jobs == 1
            await service.has("both left")
        return await first

    service.batches()
    assert means(service.run(ask())) == [1]
    assert means(service.run(service.engine.run(gated(3)))) == [3]
    assert service.batches() == [1]  # of the last; the half that was left alone has not been scored


def test_a_killed_replica_costs_no_request_and_is_replaced(service: Service):
    works = [job(picture(seed, 160), picture(seed + 1000, 160)) for seed in range(60)]
    before = service.replicas("pixels")
    assert len(before) == 2
    victim = min(before)
    done = 0

    async def ask(work: ScoreJob, turn: asyncio.Semaphore) -> ScoreTable:
        nonlocal done
        async with turn:
            table = await patiently(service.engine, work)
            done += 1
            if done == 10:
                os.kill(victim, signal.SIGKILL)
            return table

    async def load() -> list[ScoreTable]:
        turn = asyncio.Semaphore(6)
        return await asyncio.gather(*(ask(work, turn) for work in works))

    tables = service.run(load())
    assert all(same(table, local(work)) for work, table in zip(works, tables, strict=True))
    until(lambda: len(service.replicas("pixels") - {victim}) == 2, "a new replica")


def test_without_a_replica_requests_wait_and_the_server_is_not_ready(service: Service):
    """The only replica of `gated` dies over a request, and the next cannot load yet."""

    async def ask() -> ScoreTable:
        asked = asyncio.ensure_future(service.engine.run(gated(5)))
        await happens(lambda: service.batches(), "the request is being scored")
        (victim,) = service.replicas("gated")
        os.kill(victim, signal.SIGKILL)
        await happens(service.engine.trouble, "the death is noticed")
        assert service.engine.trouble() == "no replica of gated is running"
        ready = await asyncio.to_thread(client.get, "/ready")
        assert ready.status_code == 503 and ready.json()["reason"] == "no replica of gated is running"
        pixels = await service.engine.run(job(picture(1)))  # the other scorers go on
        assert pixels.errors == (None,) and not asked.done()
        (service.folder / "held").unlink()
        (service.folder / "closed").unlink()
        return await asked

    service.batches()
    resent = service.engine.resent
    with TestClient(build_app(engine=Kept(service.engine))) as client:
        until(lambda: client.get("/ready").status_code == 200, "ready")
        service.batches()
        for name in ("held", "closed"):
            (service.folder / name).touch()
        try:
            assert means(service.run(ask())) == [5]
        finally:
            for name in ("held", "closed"):
                (service.folder / name).unlink(missing_ok=True)
        until(lambda: client.get("/ready").status_code == 200, "ready again")
    assert service.engine.resent == resent + 1


def test_a_request_that_kills_replicas_is_given_up(service: Service):
    """With `retries: 1`, two deaths."""
    deadly = job(to_npy(plain(1, 1, (4, DEADLY_WIDTH))), scorers=("gated",))
    with pytest.raises(ScorerFailed, match="'gated': this request took a replica with it 2 times"):
        service.run(service.engine.run(deadly))
    assert means(service.run(patiently(service.engine, gated(7)))) == [7]
    assert service.engine.jobs == 0


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            {"name": "unipercept", "path": "missing/", "device": "cpu"},
            CheckpointError,
            "missing/",
        ),
        (
            {"name": "gated", "dies": True},
            ScorerFailed,
            "a scorer did not start: its process died while it loaded",
        ),
    ],
    ids=["checkpoint", "death"],
)
def test_a_scorer_that_cannot_be_loaded_ends_the_start(service: Service, spec, error, message):
    from ray import serve

    from reward_plugin import ray_cluster

    options = RayOptions(name=f"{service.engine.options.name}-bad", num_cpus=0.1)
    spec = spec | ({"folder": str(service.folder)} if spec["name"] == "gated" else {})
    start = time.monotonic()
    with pytest.raises(error, match=message):
        ray_cluster.deploy([spec], options)
    assert time.monotonic() - start < PATIENCE
    assert not [name for name in serve.status().applications if name.startswith(options.name)]


def test_too_much_for_the_cluster_is_an_error_not_a_wait(engine: RayEngine):
    from reward_plugin import ray_cluster

    with pytest.raises(ConfigError, match=r"num_gpus: 1000 GPUs are wanted \(pixels 1000\), the cluster has"):
        ray_cluster.deploy([{"name": "pixels"}], RayOptions(num_gpus=1000))


def test_a_port_beyond_loopback_is_refused(engine: RayEngine):
    from reward_plugin import ray_cluster

    ray_cluster.check_loopback()
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); time.sleep(60)"
    process = psutil.Popen([sys.executable, "-c", listen])
    try:
        until(lambda: process.net_connections("inet"), f"a port of {command(process)}")
        with pytest.raises(ConfigError, match=r"Ray \S+ listens on 0\.0\.0\.0:\d+, not on loopback"):
            ray_cluster.check_loopback()
    finally:
        process.kill()
        process.wait()
