"""Whether scores can be made: once a first one has been made, and as long as the engine is well."""

from __future__ import annotations

import asyncio
import logging

import PIL.Image

from reward_plugin.images import to_png
from reward_plugin.queueing import Engine, Full, ScoreJob
from reward_plugin.server.failures import public

log = logging.getLogger(__name__)

#: Seconds between two tries to make a score while none can be made.
RETRY_PERIOD = 10.0
#: The id of these requests in the log.
WARM_UP = "warm-up"
#: What the first score is made for; some scorers look for a quoted text.
PROMPT = 'a grey square that says "grey"'


class Readiness:
    """Watches an engine."""

    def __init__(self, engine: Engine) -> None:
        """Not ready until a first score has been made."""
        self.engine = engine
        self._reason: str | None = "warming up"

    @property
    def reason(self) -> str | None:
        """Why no scores can be made, in words for clients; None when they can."""
        reason = self._reason or self.engine.trouble()
        return None if reason is None else public(reason, WARM_UP)

    async def watch(self) -> None:
        """Score one grey picture, and again while no scores can be made: what failed may pass.

        The first pass of a model allocates memory and picks kernels. Later ones matter where a load balancer
        sends nothing more to a server that is not ready.
        """
        picture = to_png(PIL.Image.new("RGB", (64, 64), (128, 128, 128)))
        scorers = tuple(info.name for info in self.engine.describe())
        job = ScoreJob((picture,), (PROMPT,), scorers, id=WARM_UP)
        while True:
            if self.reason is not None:
                await self._try(job)
            await asyncio.sleep(RETRY_PERIOD)

    async def _try(self, job: ScoreJob) -> None:
        while True:
            try:
                table = await self.engine.run(job)
            except Full:  # others came first
                await asyncio.sleep(0.2)
                continue
            except Exception as error:
                reason = f"the warm-up score failed: {error}"
                log.error(
                    "request %s: %s", WARM_UP, reason, exc_info=error if reason != self._reason else None
                )
                self._reason = reason
            else:
                self._reason = table.errors[0]
            return
