"""Requests to one or several reward servers that are allowed to be away for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from reward_plugin.access import is_loopback, trust
from reward_plugin.encoding import Body
from reward_plugin.errors import (
    ConfigError,
    ProtocolError,
    RequestRefused,
    ScorerFailed,
    ServerBusy,
    ServerUnavailable,
)
from reward_plugin.failover import Failover, Server
from reward_plugin.retry import Backoff

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Worth another attempt: a proxy without its server, and a server over its queue limit.
RETRIED = frozenset({429, 502, 503, 504})
#: Seconds to reach a server's machine at all.
CONNECT = 10.0

_REMEDY = "is it running (python -m reward_plugin serve --config FILE), and is the address right?"


class Call:
    """What the requests of one call have in common: when it must be over, and whether it is lost already."""

    def __init__(self, seconds: float | None = None) -> None:
        """Begin now, and end after so many seconds; None: whenever the servers answer."""
        self.seconds = seconds
        self.lost: Exception | None = None
        self._ends = float("inf") if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds to the deadline; infinite without one.

        Raises:
            ServerUnavailable: it has passed.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def result_of(self, future: Future[T]) -> T:
        """What another thread does for this call.

        Raises:
            ServerUnavailable: it is not done at the deadline.
        """
        left = self.left()
        try:
            return future.result(None if left == float("inf") else left)
        except TimeoutError:
            raise self.late() from None

    def late(self) -> ServerUnavailable:
        """The error of a deadline that has passed."""
        return ServerUnavailable(
            f"the scores did not come within the call's deadline of {self.seconds:g} s; allow more, send "
            "fewer images at once, or serve them with more replicas"
        )


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
        self.urls = [url.rstrip("/") for url in urls]
        for url in self.urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ConfigError(f"url {url!r}: write it as http://host:port")
        if not self.urls:
            raise ConfigError("url is empty; give the address of a reward server")
        self.timeout, self.max_outage = timeout, max_outage
        self.servers = Failover(self.urls, max_outage)
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            transport=transport,
            verify=True if ca_file is None else trust(ca_file),
            trust_env=False,  # a proxy for the outside world must not come between trainer and server
        )
        self._stopped = threading.Event()

    @property
    def is_local(self) -> bool:
        """Whether every server is on this machine."""
        return all(is_loopback(urlsplit(url).hostname or "") for url in self.urls)

    def wait_ready(self, timeout: float) -> None:
        """Wait until every server is ready; `ServerUnavailable` after `timeout` seconds."""
        started, backoff = time.monotonic(), Backoff(longest=2.0)
        for url in self.urls:
            told, attempts = float("-inf"), 0
            while (trouble := self._not_ready(url)) is not None:
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

    def ask_each(self, path: str) -> dict[str, Any]:
        """What every server, by its address, answers to a GET just now."""
        answers = {}
        for url in self.urls:
            try:
                answers[url] = _result(self._http.get(url + path, timeout=CONNECT), url)
            except httpx.TransportError as error:
                raise ServerUnavailable(f"reward server {url}: {_said(error)}; {_REMEDY}") from None
        return answers

    def stop(self) -> None:
        """Make no further attempts; whoever is waiting for one gets `ServerUnavailable` now."""
        self._stopped.set()
        self.servers.wake()

    def close(self) -> None:
        """Stop, and close the connections."""
        self.stop()
        self._http.close()

    def send(self, method: str, path: str, body: Body | None = None, call: Call | None = None) -> Any:
        """One request with all its attempts; returns the parsed JSON of the answer.

        Raises:
            ServerUnavailable: no server gave a usable answer for `max_outage` seconds, the call's deadline
                passed, or the client was closed.
            ServerBusy: the last of them answered, but was over its queue limit.
            RequestRefused: a server said no, which no other attempt would change.
            ScorerFailed: the model failed, on every server that could be asked.
        """
        call = call or Call()
        attempts, since = 0, float("inf")
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
                response = self._attempt(server, started, method, path, body, left)
            except httpx.TimeoutException:
                raise call.late() from None
            if response is None:
                attempts, since = attempts + 1, min(since, started)
                # Others may well be answered: then it is this request that servers do not survive.
                if attempts >= len(self.urls) and time.monotonic() - since > self.max_outage:
                    raise self._gone(server, time.monotonic() - since)
            else:
                try:
                    return _result(response, server.url)
                except ScorerFailed as error:
                    broken[server.url] = error  # another server's device may be well

    def _attempt(
        self, server: Server, started: float, method: str, path: str, body: Body | None, left: float
    ) -> httpx.Response | None:
        """The answer, or None where it is worth another attempt; TimeoutException if `left` is over."""
        timeout = min(self.timeout, left)
        try:
            response = self._http.request(
                method,
                server.url + path,
                content=None if body is None else body.chunks(),
                headers=None if body is None else body.headers,
                timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT)),
            )
        except httpx.RequestError as error:
            if self._stopped.is_set():
                raise _closed() from None
            if isinstance(error, httpx.TimeoutException) and time.monotonic() - started >= left:
                self.servers.wake()
                raise  # the caller's haste is not the server's fault
            self.servers.failed(server, started, _said(error))
            return None
        if response.status_code not in RETRIED:
            self.servers.answered(server, started)
            return response
        self.servers.failed(
            server,
            started,
            f"HTTP {response.status_code}: {_message(response)}",
            busy=response.status_code in (429, 503),
            retry_after=_retry_after(response.headers),
        )
        return None

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

    def _not_ready(self, url: str) -> str | None:
        try:
            response = self._http.get(f"{url}/ready", timeout=CONNECT)
        except httpx.TransportError as error:
            return _said(error)
        return None if response.status_code == 200 else f"HTTP {response.status_code}: {response.text[:200]}"


def _closed() -> ServerUnavailable:
    return ServerUnavailable("the client was closed while it waited for its server")


def _said(error: httpx.RequestError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _result(response: httpx.Response, url: str) -> Any:
    if response.status_code == 200:
        try:
            return response.json()
        except ValueError:
            raise ProtocolError(f"{url} answered {response.text[:80]!r}, which is not JSON") from None
    if response.status_code >= 500:
        raise ScorerFailed(f"reward server {url}: HTTP {response.status_code}: {_message(response)}")
    raise RequestRefused(f"reward server {url}: HTTP {response.status_code}: {_message(response)}")


def _message(response: httpx.Response) -> str:
    """What a server says went wrong, with the name under which its log has more."""
    try:
        error = response.json()["error"]
        name = error.get("request_id")
        return f"{error['message']} (request {name})" if name else str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text[:200]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to be left alone, given as a number or, by some proxies, as a date."""
    text = headers.get("retry-after", "0")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
