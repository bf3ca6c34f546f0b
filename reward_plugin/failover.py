"""Which of several servers to try now: in turn, leaving out for a while those that failed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from reward_plugin.retry import Backoff

log = logging.getLogger(__name__)

#: Seconds that one request has to find out whether a server is back, before another one tries as well.
PROBE = 10.0
#: Seconds between two messages about the same outage.
QUIET = 10.0


@dataclass
class Server:
    """What is known of one server. Times are those of the clock.

    Attributes:
        url: Its address.
        failures: Attempts in a row that it gave no usable answer to.
        until: When it may be tried again.
        since: When the first of these failures was seen.
        last: When the last one was.
        trouble: What the last one was.
        busy: It answered, but was over its queue limit.
        probing: A request is under way to find out whether it is back.
        told: When the last message about it was written.
        announced: There was a message about this outage.
    """

    url: str
    failures: int = 0
    until: float = -math.inf
    since: float = -math.inf
    last: float = -math.inf
    trouble: str = ""
    busy: bool = False
    probing: bool = False
    told: float = -math.inf
    announced: bool = False


class Failover:
    """Deals out servers in turn. One that failed is left alone for a growing time, and is then tried by one
    request at a time until it answers; all requests of a client share what one of them has found out.
    Thread-safe.
    """

    def __init__(
        self,
        urls: Sequence[str],
        max_outage: float,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """All servers count as well until one fails; `max_outage` is only told in messages."""
        self.servers = [Server(url) for url in urls]
        self._max_outage, self._backoff, self._clock = max_outage, backoff or Backoff(), clock
        self._turn = 0
        self._changed = threading.Condition()

    def take(self, leave_out: Collection[str] = ()) -> Server | None:
        """The next server that may be tried now, or None."""
        with self._changed:
            now = self._clock()
            for _ in self.servers:
                server = self.servers[self._turn % len(self.servers)]
                self._turn += 1
                if server.until <= now and server.url not in leave_out:
                    if server.failures:
                        server.probing, server.until = True, now + PROBE
                    return server
            return None

    def failed(
        self, server: Server, started: float, trouble: str, *, busy: bool = False, retry_after: float = 0.0
    ) -> None:
        """An attempt that began at `started` got no usable answer."""
        with self._changed:
            if started < server.last:
                return  # under way when another one failed: nothing new
            now = server.last = self._clock()
            if server.failures == 0:
                server.since, server.announced = now, False
            server.failures += 1
            server.until = now + self._backoff.delay(server.failures, retry_after)
            server.trouble, server.busy, server.probing = trouble, busy, False
            # A full queue for a moment is how a server says "slower"; it is news only if it lasts.
            tell = now - server.told >= QUIET and (not busy or now - server.since >= QUIET)
            if tell:
                server.told, server.announced = now, True
            well = sum(other.failures == 0 for other in self.servers)
            self._changed.notify_all()
        if tell:
            waited = f"no answer for {now - server.since:.0f} s, max_outage is {self._max_outage:.0f} s"
            log.warning(
                "reward server %s: %s; %s",
                server.url,
                trouble,
                "the others take its pictures" if well else f"trying again ({waited})",
            )

    def answered(self, server: Server, started: float) -> None:
        """An attempt that began at `started` got a usable answer."""
        with self._changed:
            if not server.failures or started < server.last:
                return
            server.failures, server.until, server.probing = 0, -math.inf, False
            away, announced = self._clock() - server.since, server.announced
            self._changed.notify_all()
        if announced:
            log.warning("reward server %s answers again, after %.1f s", server.url, away)

    def next_due(self) -> tuple[Server, float]:
        """The server that may be tried first, and the seconds until then."""
        with self._changed:
            server = min(self.servers, key=lambda one: one.until)
            return server, max(0.0, server.until - self._clock())

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than until something new is known of any server."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Let all that wait look again."""
        with self._changed:
            self._changed.notify_all()
