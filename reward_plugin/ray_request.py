"""One request to the replicas of one scorer, asked again where the replica that had it is gone.

Serve sends a request again by itself only while no replica has taken it. What a taken one ends with depends
on how its replica went: by `kill -9`, by Ray's own guard of the memory, or because Serve stopped it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from reward_plugin.errors import RewardError, ScorerFailed, TooLarge
from reward_plugin.ray_replica import Answer
from reward_plugin.types import ScoreTable

log = logging.getLogger(__name__)

#: Seconds before a request is sent again where Serve may not know yet that the replica is gone: its router
#: drops one by itself on an `ActorDiedError` only, and hears of others when the controller has noticed, which
#: for one that Ray's guard of the memory has killed takes three health checks; it seems idle meanwhile.
PAUSE = 2.0


class Request:
    """A request with its pictures in Ray's object store.

    Attributes:
        resent: times that it went to another replica.
    """

    def __init__(self, handle: Any, scorer: str, reference: Any, name: str, retries: int) -> None:
        """Take what is asked.

        Args:
            handle: of the deployment; its method `score` takes `reference`.
            scorer: for errors.
            reference: the job in the object store.
            name: the request's id, for logs.
            retries: how often it may go to another replica.
        """
        self._handle, self._scorer, self._reference = handle, scorer, reference
        self._name, self._retries = name or "-", retries
        self.resent = 0

    async def answer(self) -> tuple[ScoreTable, float]:
        """The table, and the seconds that its replica had the request.

        Raises:
            TooLarge: the replica would not decode so many pixels at once.
            ScorerFailed: the scorer failed on the whole batch, or more than `retries` replicas died over it.
        """
        from ray.exceptions import ActorDiedError, RayError
        from ray.serve.exceptions import RayServeException

        while True:
            response = self._handle.score.remote(self._reference)
            try:
                return unpack(await response)
            except asyncio.CancelledError:
                if _is_cancelled():
                    response.cancel()
                    raise
                # so ends what a replica has when Serve stops it, as one that is stuck
                self._count(response, "it was stopped")
            except (RayError, RayServeException) as error:
                if not _is_gone(error):
                    log.exception("request %s: scorer %s", self._name, self._scorer)
                    raise ScorerFailed(
                        f"scorer {self._scorer!r}: {type(error).__name__} in the cluster"
                    ) from None
                self._count(response, (str(error).splitlines() or [type(error).__name__])[0])
                if isinstance(error, ActorDiedError):
                    continue
            await asyncio.sleep(PAUSE)

    def _count(self, response: Any, why: str) -> None:
        """One more replica is gone; which it was before, where it has not taken the request."""
        if getattr(response, "_replica_result", response) is None:
            return
        log.warning("request %s: a replica of %s died: %s", self._name, self._scorer, why)
        if self.resent >= self._retries:
            raise ScorerFailed(
                f"scorer {self._scorer!r}: this request took a replica with it {self.resent + 1} times"
            ) from None
        self.resent += 1


def unpack(answer: tuple[Answer, float]) -> tuple[ScoreTable, float]:
    """A replica's table and seconds.

    Raises:
        TooLarge: the replica would not decode so many pixels at once.
        ScorerFailed: the scorer failed on the whole batch.
    """
    found, seconds = answer
    if isinstance(found, ScoreTable):
        return found, seconds
    kind, text = found
    error: type[RewardError] = TooLarge if kind == "too_large" else ScorerFailed
    raise error(text)


def _is_cancelled() -> bool:
    """Whether it is us who are to stop."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _is_gone(error: Exception) -> bool:
    """Whether the replica that had the request is gone, rather than the request wrong."""
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError
    from ray.serve.exceptions import ReplicaUnavailableError

    gone = (RayActorError, ReplicaUnavailableError, NodeDiedError, ObjectLostError)
    # not a RayActorError, though it is an actor that Ray's guard of the memory has killed
    return isinstance(error, (*gone, OutOfMemoryError))
