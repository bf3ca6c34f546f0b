"""The Ray engine without a cluster: options, and one replica by itself; test_ray_cluster.py has the rest."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_plugin import ray_replica
from reward_plugin.errors import CheckpointError, ConfigError, ScorerFailed
from reward_plugin.images import to_npy
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import ScoreJob, ScorerInfo
from reward_plugin.ray_cluster import reason
from reward_plugin.ray_engine import RayEngine, _check_dimensions
from reward_plugin.ray_options import RayOptions
from reward_plugin.ray_replica import Replica
from reward_plugin.scorers import SCORERS, build_scorers
from reward_plugin.types import ScoreTable
from tests.reward.helpers import Broken, ChannelMeans

CHECKPOINT = Path(__file__).resolve().parents[1] / "data/unipercept/checkpoint"
UNIPERCEPT = {"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu", "dtype": "float32"}
SPECS = [{"name": "pixels"}, UNIPERCEPT]


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


@pytest.mark.parametrize(
    "report",
    [
        "ActorDiedError(The actor died unexpectedly before finishing this task.)",
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n\tpid: 1",
        "ActorUnavailableError(The actor 1f is unavailable: The task may or may not have been executed.)",
        "OutOfMemoryError(1 worker(s) were killed due to the node running low on memory.)",
    ],
    ids=["died", "died, in lines", "unavailable", "memory"],
)
def test_the_death_of_a_process_that_loads_is_told_from_rays_report(report: str):
    error = reason(f"The deployment failed to start 1 times in a row. Error:\n{report}")
    assert type(error) is ScorerFailed and "its process died while it loaded" in str(error)


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


class Blind(ChannelMeans):
    """A scorer that has no score for any picture."""

    def score(self, images: Any, prompts: Any = None) -> ScoreTable:
        return ScoreTable.computed(self.dimensions, []).scatter(["nothing to be seen"] * len(images))


def test_a_replica_whose_first_score_is_missing_does_not_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SCORERS, "channels", Blind)
    with pytest.raises(ScorerFailed, match="the warm-up score failed: nothing to be seen"):
        Replica({"name": "channels"}, room=2, coalesce=0, stuck_after=60)


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


def test_a_long_batch_is_left_alone_until_it_is_stuck(monkeypatch: pytest.MonkeyPatch):
    """The grey picture would wait behind it, and Ray would take that for a dead replica."""
    monkeypatch.setattr(ray_replica, "LONG", 0.1)

    async def use(replica: Replica, scorer: Breakable) -> None:
        scorer.broken = True
        for _ in range(3):
            await replica.score(job(picture(1)))
        scorer.broken = False
        scorer.go.clear()
        asked = asyncio.ensure_future(replica.score(job(picture(1))))
        await asyncio.sleep(0.3)
        await asyncio.wait_for(replica.check_health(), 20)
        assert not asked.done()
        scorer.go.set()
        await asked

    with_breakable(monkeypatch, use, 60)


def test_waiting_requests_of_a_replica_are_joined(monkeypatch: pytest.MonkeyPatch):
    scorer = ChannelMeans()
    monkeypatch.setitem(SCORERS, "channels", lambda: scorer)

    async def use() -> None:
        replica = Replica({"name": "channels"}, 8, 8, 60)
        scorer.go.clear()
        asked = []
        for seed in range(5):
            asked.append(asyncio.ensure_future(replica.score(job(picture(seed)))))
            await asyncio.sleep(0.2)  # the first is scored, the second decoded, the others wait
        scorer.go.set()
        answers: list[Any] = [answer for answer, _ in await asyncio.gather(*asked)]
        assert scorer.batches == [1, 1, 1, 3]  # the warm-up first
        others: list[Any] = [
            Replica({"name": "channels"}, 8, 0, 60).score(job(picture(seed))) for seed in range(5)
        ]
        alone: list[Any] = [answer for answer, _ in await asyncio.gather(*others)]
        assert all(same(a, b) for a, b in zip(answers, alone, strict=True))

    asyncio.run(use())


def test_two_scorers_with_the_same_dimension_are_refused():
    infos = [ScorerInfo(name, ("clip",), {"clip": (0, 1)}) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="scorers 'a' and 'b' both give 'clip'"):
        _check_dimensions(infos)
