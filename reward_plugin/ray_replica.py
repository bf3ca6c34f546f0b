"""One replica of one scorer: a `LocalEngine` in a process of its own, run by Ray; works without it, too."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import PIL.Image

from reward_plugin.errors import ScorerFailed, TooLarge
from reward_plugin.images import to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import ScoreJob, ScorerInfo
from reward_plugin.types import ScoreTable

#: Seconds after which a batch takes long.
LONG = 60.0
#: A table; or why there is none, as text: an exception that crosses processes would bring a traceback along.
Answer: TypeAlias = "ScoreTable | tuple[Literal['failed', 'too_large'], str]"


class Replica:
    """Loads its scorer, scores a first picture, and then answers. Until then Ray sends it nothing."""

    def __init__(
        self, spec: Mapping[str, Any], room: int, coalesce: int, stuck_after: float, loopback: bool = False
    ) -> None:
        """Load and warm up.

        Args:
            spec: the config entry of the scorer.
            room: requests that it holds at a time.
            coalesce: see `RayOptions`.
            stuck_after: see `RayOptions`.
            loopback: the whole cluster is on this machine.

        Raises:
            RewardError: the scorer cannot be built, or the first score could not be made.
        """
        from reward_plugin.scorers import build_scorer
        from reward_plugin.scoring import score_all

        if loopback:
            _listen_on_loopback()
        scorer = build_scorer(spec)
        grey = to_png(PIL.Image.new("RGB", (64, 64), (128, 128, 128)))
        self._first = ScoreJob((grey,), ("a grey square",), (scorer.name,))
        reason = score_all([scorer], [grey], self._first.prompts).errors[0]
        if reason is not None:
            raise ScorerFailed(f"scorer {scorer.name!r}: the warm-up score failed: {reason}")
        # one place more than Ray fills: a health check may ask for a score, too
        self._engine = LocalEngine([scorer], room + 1, specs=[spec], coalesce=coalesce)
        self._stuck_after = stuck_after
        self._moved = time.monotonic()  # when a request last came to an idle replica, or was answered

    async def describe(self) -> ScorerInfo:
        """What the server says of this scorer."""
        return self._engine.describe()[0]

    async def score(self, job: ScoreJob) -> tuple[Answer, float]:
        """The scores of a job, whatever scorers it names: those of this one; and how many seconds it took."""
        start = time.monotonic()
        if not self._engine.jobs:
            self._moved = start
        try:
            answer: Answer = await self._engine.run(replace(job, scorers=self._first.scorers))
        except TooLarge as error:
            answer = "too_large", str(error)
        except Exception as error:
            answer = "failed", str(error)
        self._moved = time.monotonic()
        return answer, self._moved - start

    async def check_health(self) -> None:
        """Raise where this process should be replaced; Ray asks every few seconds.

        After several batches in a row that failed, a grey picture tells whether it was for the pictures.

        Raises:
            ScorerFailed: no answer for too long, or the grey picture cannot be scored, either.
        """
        seconds = time.monotonic() - self._moved
        if self._engine.jobs and seconds > self._stuck_after:
            raise ScorerFailed(f"scorer {self._first.scorers[0]!r}: no answer for {seconds:.0f} s")
        # not behind a batch that takes long: that one is what `stuck_after` is for
        if self._engine.trouble() is not None and (not self._engine.jobs or seconds < LONG):
            await self._engine.run(self._first)


def _listen_on_loopback() -> None:
    """Keep the ports that this process opens off other addresses.

    Replicas of Ray Serve listen for calls from one another at every address of the machine, and no setting
    of Ray changes that. They ask for the cluster's token, but what they then accept is pickled. So the
    address is changed where it is handed to gRPC; `ray_cluster.check_loopback` makes sure of it.
    """
    from grpc import aio

    def listen_with(original: Callable[..., int]) -> Callable[..., int]:
        def listen(server: Any, address: str, *rest: Any) -> int:
            return original(server, re.sub(r"^(\[::\]|0\.0\.0\.0):", "127.0.0.1:", address), *rest)

        return listen

    servers = type(aio.server())
    for name in ("add_insecure_port", "add_secure_port"):
        setattr(servers, name, listen_with(getattr(servers, name)))
