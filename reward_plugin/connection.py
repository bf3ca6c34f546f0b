"""Requests to one or several reward servers that are allowed to be away for a while."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx

from reward_plugin.access import trust
from reward_plugin.address import check_url, is_local
from reward_plugin.answers import MAX_BYTES, RETRIED, Answer
from reward_plugin.call import Call
from reward_plugin.encoding import Body
from reward_plugin.errors import (
    ConfigError,
    ProtocolError,
    RewardError,
    ScorerFailed,
    ServerBusy,
    ServerUnavailable,
)
from reward_plugin.failover import Failover, Server
from reward_plugin.retry import Backoff

#: Says what is wrong with an answer that is well formed, so that its server counts as being away; or None.
Trouble = Callable[[Mapping[str, Any]], str | None]

log = logging.getLogger(__name__)

#: Seconds to reach a server's machine at all.
CONNECT = 10.0

_REMEDY = "is it running (python -m reward_plugin serve --config FILE), and is the address right?"


class Connection:
    """Keeps connections open, spreads requests over servers, retries with growing waits. Thread-safe.

    A request that fails on one server is tried on the next: scoring changes nothing, so it can be repeated.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str | None,
        ca_file: str | None = None,
        timeout: float,
        max_outage: float,
        max_connections: int,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Open nothing yet; the arguments are those of `RewardClient`."""
        self.urls = list(dict.fromkeys(map(check_url, urls)))
        if not self.urls:
            raise ConfigError("url is empty; give the address of a reward server")
        self.is_local = all(map(is_local, self.urls))
        self.timeout, self.max_outage = timeout, max_outage
        self.servers = Failover(self.urls, max_outage)
        secure = ca_file is not None or any(url.startswith("https:") for url in self.urls)
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            transport=transport,
            verify=trust(ca_file) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # trusts nobody
            trust_env=False,  # a proxy for the outside world must not come between trainer and server
        )
        self._stopped = threading.Event()

    def wait_ready(self, timeout: float) -> None:
        """Wait until every server is ready; `ServerUnavailable` after `timeout` seconds."""
        started, backoff = time.monotonic(), Backoff(longest=2.0)
        for url in self.urls:
            told, attempts = float("-inf"), 0
            while (trouble := self._not_ready(url, started + timeout)) is not None:
                attempts += 1
                now, delay = time.monotonic(), backoff.delay(attempts)
                if now - started + delay > timeout:
                    waited = f"reward server {url} was not ready after {now - started:.0f} s"
                    raise ServerUnavailable(f"{waited} ({trouble}); {_REMEDY}")
                if now - told >= 10.0:
                    told = now
                    log.warning("waiting for reward server %s: %s", url, trouble)
                if self._stopped.wait(delay):
                    raise _closed()

    def ask_each(self, path: str) -> dict[str, dict[str, Any]]:
        """What every server, by its address, answers to a GET just now."""
        answers = {}
        for url in self.urls:
            try:
                answers[url] = self._exchange(url, "GET", path, None, CONNECT).result()
            except httpx.RequestError as error:
                raise ServerUnavailable(f"reward server {url}: {_said(error)}; {_REMEDY}") from None
        return answers

    def wake(self) -> None:
        """Let requests that wait look whether they are still wanted."""
        self.servers.wake()

    def stop(self) -> None:
        """Make no further attempts; whoever is waiting for one gets `ServerUnavailable` now."""
        self._stopped.set()
        self.servers.wake()

    def close(self) -> None:
        """Stop, and close the connections."""
        self.stop()
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        call: Call | None = None,
        trouble: Trouble = lambda answer: None,
    ) -> dict[str, Any]:
        """One request with all its attempts; returns the JSON object of the answer.

        Args:
            method: HTTP's.
            path: behind the server's address.
            body: what is sent.
            call: its deadline counts, and whether it is lost.
            trouble: an answer for which it finds words is as good as none.

        Raises:
            ServerUnavailable: no server gave a usable answer for `max_outage` seconds, the call's deadline
                passed, or the client was closed.
            ServerBusy: the last of them answered, but was over its queue limit.
            RequestRefused: a server said no, which no other attempt would change.
            TooLarge: it is over a server's limits.
            ProtocolError: what answers is no reward server.
            ScorerFailed: the model failed, on every server that could be asked.
        """
        call = call or Call()
        since = float("inf")
        broken: dict[str, ScorerFailed] = {}
        while True:
            left, started = self._check(call), time.monotonic()
            server = self.servers.take(leave_out=broken)
            if server is None:
                if broken:
                    raise next(iter(broken.values()))
                since = min(since, started)
                self._wait(since, left)
                continue
            try:
                answer = self._attempt(server, started, method, path, body, left)
                result = None if answer is None else self._judged(answer, server, started, trouble)
            except httpx.TimeoutException:
                raise call.late() from None
            except ScorerFailed as error:
                broken[server.url] = error  # another server's device may be well
                continue
            if result is not None:
                return result
            since = min(since, started)

    def _attempt(
        self, server: Server, started: float, method: str, path: str, body: Body | None, left: float
    ) -> Answer | None:
        """The answer, or None where it is worth another attempt; TimeoutException if `left` is over."""
        try:
            answer = self._exchange(server.url, method, path, body, min(self.timeout, left))
        except httpx.RequestError as error:
            if self._stopped.is_set():
                raise _closed() from None
            if isinstance(error, httpx.TimeoutException) and time.monotonic() - started >= left:
                self.servers.wake()
                raise  # the caller's haste is not the server's fault
            self.servers.failed(server, started, _said(error))
            return None
        if answer.status not in RETRIED:
            return answer
        trouble = f"HTTP {answer.status}: {answer.message}"
        self.servers.failed(server, started, trouble, busy=answer.is_busy, retry_after=answer.retry_after)
        return None

    def _exchange(self, url: str, method: str, path: str, body: Body | None, seconds: float) -> Answer:
        """One attempt, which ends in time however slowly the two sides speak; any `httpx.RequestError`."""
        ends = time.monotonic() + seconds
        content, headers = (None, None) if body is None else (_until(ends, body.chunks()), body.headers)
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT))
        with self._http.stream(
            method, url + path, content=content, headers=headers, timeout=timeout
        ) as answer:
            read = bytearray()
            for piece in _until(ends, answer.iter_bytes()):
                read += piece
                if len(read) > MAX_BYTES:
                    raise ProtocolError(
                        f"{url} answers with more than {MAX_BYTES} bytes; no reward server does"
                    )
            return Answer(url, answer.status_code, answer.headers, bytes(read))

    def _judged(
        self, answer: Answer, server: Server, started: float, trouble: Trouble
    ) -> dict[str, Any] | None:
        """What the answer says, or None where it is as good as none; the errors of `Answer.result`."""
        try:
            result = answer.result()
        except RewardError:
            self.servers.answered(server, started)
            raise
        if (words := trouble(result)) is not None:
            self.servers.failed(server, started, words)
            return None
        self.servers.answered(server, started)
        return result

    def _wait(self, since: float, left: float) -> None:
        """Sleep until a server may be tried again, unless that would be too late."""
        server, delay = self.servers.next_due()
        waited = time.monotonic() - since
        # While a request finds out whether a server is back, what is known of it may be out of date.
        if waited + delay > self.max_outage and not server.probing:
            raise self._gone(server, waited)
        self.servers.wait(min(delay, left))

    def _gone(self, server: Server, waited: float) -> ServerUnavailable:
        return (ServerBusy if server.busy else ServerUnavailable)(
            f"reward server {' or '.join(self.urls)} gave no usable answer for {waited:.0f} s of max_outage "
            f"{self.max_outage:.0f} s (the last: {server.trouble}); {_REMEDY}"
        )

    def _check(self, call: Call) -> float:
        if self._stopped.is_set():
            raise _closed()
        if call.lost is not None:
            raise call.lost
        return call.left()

    def _not_ready(self, url: str, ends: float) -> str | None:
        patience = min(CONNECT, max(1.0, ends - time.monotonic()))
        try:
            answer = self._exchange(url, "GET", "/ready", None, patience)
        except httpx.RequestError as error:
            return _said(error)
        return None if answer.status == 200 else f"HTTP {answer.status}: {answer.text}"


def _closed() -> ServerUnavailable:
    return ServerUnavailable("the client was closed while it waited for its server")


def _said(error: httpx.RequestError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _until(ends: float, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces; httpx itself only limits the time for each of them."""
    for piece in pieces:
        if time.monotonic() > ends:
            raise httpx.ReadTimeout("the exchange as a whole took too long")
        yield piece
