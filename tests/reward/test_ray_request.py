"""How a request to a replica is sent again, told from how it ended; with a deployment that is none."""

import asyncio
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest

from reward_plugin import ray_cluster, ray_request
from reward_plugin.errors import ScorerFailed, TooLarge
from reward_plugin.ray_request import Request
from reward_plugin.types import ScoreTable

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e .[ray]"
)

TABLE = ScoreTable.computed(("red",), [(1.0,)])


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a cluster that is started here: Ray reads them once, and another test may start one."""
    os.environ.update(ray_cluster.settings(local=True))
    monkeypatch.setattr(ray_request, "PAUSE", 0.0)


class Deployment:
    """Stands for a handle of Serve: its calls end one after another as the test says."""

    def __init__(self, *ends: Any, taken: bool = True) -> None:
        self.ends, self.taken = list(ends), taken
        self.asked: list[Any] = []
        self.cancelled = 0
        self.score = self

    def remote(self, reference: Any) -> "Response":
        self.asked.append(reference)
        return Response(self, self.ends.pop(0))


class Response:
    def __init__(self, deployment: Deployment, end: Any) -> None:
        self.deployment, self.end = deployment, end
        self._replica_result = self if deployment.taken else None

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        if self.end is None:
            yield from asyncio.Event().wait().__await__()
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    def cancel(self) -> None:
        self.deployment.cancelled += 1


def request(deployment: Deployment, retries: int = 1) -> Request:
    return Request(deployment, "gated", "the pictures", "7", retries)


def died() -> BaseException:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def unavailable() -> BaseException:
    from ray.exceptions import ActorUnavailableError

    return ActorUnavailableError("its node does not answer", None)


def out_of_memory() -> BaseException:
    """What Ray's guard of the memory makes of the calls of a replica that it kills: not a RayActorError."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    error = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")
    assert not isinstance(error, RayActorError)
    return error


def stopped() -> BaseException:
    """What Serve makes of a call that its replica has dropped, though nobody here wanted that."""
    return asyncio.CancelledError()


def lost() -> BaseException:
    from ray.exceptions import NodeDiedError

    return NodeDiedError("the node is gone")


@pytest.mark.parametrize("end", [died, unavailable, out_of_memory, stopped, lost])
def test_a_request_whose_replica_is_gone_goes_to_another(end: Callable[[], BaseException]):
    deployment = Deployment(end(), (TABLE, 0.5))
    asked = request(deployment)
    assert asyncio.run(asked.answer()) == (TABLE, 0.5)
    assert deployment.asked == ["the pictures"] * 2 and asked.resent == 1 and deployment.cancelled == 0


@pytest.mark.parametrize("end", [died, out_of_memory, stopped])
def test_it_is_given_up_when_it_has_cost_more_replicas_than_it_may(end: Callable[[], BaseException]):
    deployment = Deployment(end(), end(), end(), (TABLE, 0.5))
    asked = request(deployment, retries=2)
    with pytest.raises(ScorerFailed, match="'gated': this request took a replica with it 3 times"):
        asyncio.run(asked.answer())
    assert len(deployment.asked) == 3 and asked.resent == 2


@pytest.mark.parametrize("end", [unavailable, out_of_memory, stopped])
def test_serve_is_given_time_to_learn_of_a_death_that_its_router_does_not_see(
    end: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
):
    """Otherwise all retries would go to the dead replica."""
    monkeypatch.setattr(ray_request, "PAUSE", 60.0)
    deployment = Deployment(end(), (TABLE, 0.5))

    async def ask() -> None:
        asked = asyncio.ensure_future(request(deployment).answer())
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(deployment.asked) == 1 and not asked.done()
        asked.cancel()
        await asyncio.wait([asked])

    asyncio.run(ask())


def test_a_replica_that_was_dead_before_is_not_counted():
    """Serve's router goes on choosing it, and each time the request comes back without having been taken."""
    deployment = Deployment(*[out_of_memory() for _ in range(5)], (TABLE, 0.5), taken=False)
    asked = request(deployment, retries=1)
    assert asyncio.run(asked.answer()) == (TABLE, 0.5)
    assert len(deployment.asked) == 6 and asked.resent == 0


def test_a_death_that_the_router_sees_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_request, "PAUSE", 60.0)
    deployment = Deployment(died(), (TABLE, 0.5))
    assert asyncio.run(asyncio.wait_for(request(deployment).answer(), 30)) == (TABLE, 0.5)


def test_a_request_that_is_not_wanted_any_more_is_cancelled_and_not_sent_again():
    deployment = Deployment(None, (TABLE, 0.5))

    async def ask() -> None:
        asked = asyncio.ensure_future(request(deployment).answer())
        while not deployment.asked:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled() and deployment.cancelled == 1 and len(deployment.asked) == 1

    asyncio.run(ask())


def test_an_error_of_the_cluster_that_is_no_death_is_not_tried_again():
    from ray.exceptions import RaySystemError

    deployment = Deployment(RaySystemError("a message of two\nlines"), (TABLE, 0.5))
    with pytest.raises(ScorerFailed, match="scorer 'gated': RaySystemError in the cluster"):
        asyncio.run(request(deployment).answer())
    assert len(deployment.asked) == 1


@pytest.mark.parametrize(("kind", "error"), [("too_large", TooLarge), ("failed", ScorerFailed)])
def test_what_a_replica_says_of_a_request_is_raised(kind: str, error: type[Exception]):
    with pytest.raises(error, match="said there") as raised:
        asyncio.run(request(Deployment(((kind, "said there"), 0.5))).answer())
    assert type(raised.value) is error
