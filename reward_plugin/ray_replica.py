"""One replica of one scorer: a `LocalEngine` in a process of its own, run by Ray; works without it, too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import PIL.Image

from reward_plugin.errors import ScorerFailed, TooLarge
from reward_plugin.images import to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import ScoreJob, ScorerInfo
from reward_plugin.types import ScoreTable

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
        if self._engine.trouble() is not None:
            await self._engine.run(self._first)


def _listen_on_loopback() -> None:
    """Keep a port of this process off other addresses.

    Ray Serve's replicas listen for calls from one another at every address of the machine; they ask for the
    cluster's token, but what they then accept is pickled. No other setting of Ray 2.60 changes the address.
    """
    from ray.serve._private import replica

    def listen(server: Any, address: str) -> int:
        return int(original(server, address.replace("[::]", "127.0.0.1")))

    original = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = listen
