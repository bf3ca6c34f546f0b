"""Whether scores can be made: once a first one has been made, and as long as the engine is well."""

from __future__ import annotations

import asyncio
import logging

import PIL.Image

from reward_plugin.images import to_png
from reward_plugin.queueing import Engine, Full, ScoreJob
from reward_plugin.server.failures import public

log = logging.getLogger(__name__)


class Readiness:
    """Watches an engine."""

    def __init__(self, engine: Engine) -> None:
        """Not ready until `warm_up` has ended well."""
        self.engine = engine
        self._reason: str | None = "warming up"

    @property
    def reason(self) -> str | None:
        """Why no scores can be made, in words for clients; None when they can."""
        reason = self._reason or self.engine.trouble()
        return None if reason is None else public(reason)

    async def warm_up(self) -> None:
        """Score one grey picture: the first pass allocates memory and picks kernels."""
        picture = to_png(PIL.Image.new("RGB", (64, 64), (128, 128, 128)))
        scorers = tuple(info.name for info in self.engine.describe())
        job = ScoreJob((picture,), ("a grey square",), scorers, id="warm-up")
        while True:
            try:
                table = await self.engine.run(job)
            except Full:  # others came first
                await asyncio.sleep(0.2)
                continue
            except Exception as error:
                log.exception("warm-up")
                self._reason = f"the warm-up score failed: {error}"
            else:
                self._reason = table.errors[0]
            return
