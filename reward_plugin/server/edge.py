"""The outermost layer of the application: what holds for every request, whatever its route.

Each exchange gets an id (the client's X-Request-ID, or a new one), a check of its token, a count, and a JSON
answer even where something unforeseen fails. A client that is refused before its body was read can still send
the rest of it for a while, so that it comes to read why; then the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_plugin.adapters import flow_factory
from reward_plugin.server.failures import RequestFailed, error_body, request_id
from reward_plugin.server.limits import Budget
from reward_plugin.server.metrics import Metrics

log = logging.getLogger(__name__)

#: What anybody may ask: whether the server lives, and how to talk to it.
OPEN = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
#: Seconds for which the rest of a refused request is still taken from the connection.
DRAIN_SECONDS = 5.0
#: The status of those whose rest has been waited for already.
TOO_SLOW = 408
#: Recorded, not sent: the client hung up.
HUNG_UP = 499
_REQUEST_ID = re.compile(r"[\w.:@-]{1,128}", re.ASCII)


class Edge:
    """ASGI middleware; see the module."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        budget: Budget,
        token: str | None,
        max_bytes: int,
    ) -> None:
        """Wrap an application.

        Args:
            app: what answers.
            metrics: where exchanges are counted.
            budget: gets back what an exchange held, when it ends.
            token: asked for everywhere but at `OPEN`; None asks nobody.
            max_bytes: of the rest of a refused request that are taken before the connection is closed.
        """
        self.app, self.metrics, self.budget, self.max_bytes = app, metrics, budget, max_bytes
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id.set(given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8))
        state = scope.setdefault("state", {})
        exchange = _Exchange(receive, send, _has_body(headers), self.max_bytes)
        try:
            app: ASGIApp = self.app if self._may_pass(scope["path"], headers) else self._refuse
            await app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:  # the server stops, and has waited for this one for long enough
            if exchange.status:
                raise
            stopping = RequestFailed(503, "stopping", "the server is stopping", {"Retry-After": "2"})
            await failure(stopping, self.metrics)(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("request %s: unforeseen", request_id.get())
            if not exchange.status:
                message = f"unforeseen; the server's log has the reason under request {request_id.get()}"
                failed = RequestFailed(500, "internal", message)
                await failure(failed, self.metrics)(scope, exchange.receive, exchange.send)
        finally:
            self.budget.give(state.pop("held_bytes", 0))
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(exchange.status or HUNG_UP)).inc()
            if route == "/v1/score":
                self.metrics.answering.observe(time.monotonic() - start)

    def _may_pass(self, path: str, headers: Headers) -> bool:
        if self._expected is None or path in OPEN:
            return True
        given = headers.get("authorization", "")
        if path.endswith(flow_factory.PATHS):
            given = flow_factory.as_bearer(given)
        return hmac.compare_digest(given.encode(), self._expected)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = "wrong or no token; send Authorization: Bearer TOKEN"
        failed = RequestFailed(401, "token", message, {"WWW-Authenticate": "Bearer"})
        await failure(failed, self.metrics)(scope, receive, send)


def failure(failed: RequestFailed, metrics: Metrics) -> JSONResponse:
    """The response to a request that failed, which is counted and logged."""
    log.info("request %s: %d %s: %s", request_id.get(), failed.status, failed.code, failed)
    metrics.errors.labels(failed.code).inc()
    return JSONResponse(error_body(failed.code, str(failed)), failed.status, failed.headers)


@dataclass
class _Exchange:
    """The two directions of one request, and how far they have come."""

    from_client: Receive
    to_client: Send
    unread: bool  # whether some of the body is still to come
    max_bytes: int
    status: int = 0
    _drains: bool = False

    async def receive(self) -> Message:
        message = await self.from_client()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._drains = self.unread and self.status != TOO_SLOW
            headers = [*message.get("headers", ()), (b"x-request-id", request_id.get().encode())]
            headers += [(b"connection", b"close")] if self.unread else []
            message = {**message, "headers": headers}
        elif self._drains and not message.get("more_body", False):
            await self.to_client({**message, "more_body": True})  # all of the answer, but not yet the end
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self.to_client(message)

    async def _drain(self) -> None:
        left = self.max_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self.unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
