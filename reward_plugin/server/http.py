"""uvicorn, whose own HTTP protocol waits for ever for the head of a request and takes one of any length."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes of the request line and the headers together; as many may follow a chunked body as its trailers.
MAX_HEAD = 64 * 1024
#: Seconds that requests still have when the server is told to stop.
GRACE = 30


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections that do not send the whole head of a request in time, or send too long a one.

    Bodies are the application's business (`reward_plugin.server.body`), and connections that idle between two
    requests are uvicorn's (`timeout_keep_alive`).
    """

    #: Seconds from the first byte of a head, or from the connection, to the end of the head.
    head_timeout = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._overhead = 0  # bytes since the last ones of a body
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, of which those that are no body are counted."""
        self._overhead += len(data)
        if self._in_head and self._timer is None:
            self._wait_for_head()
        super().data_received(data)
        if self._overhead > MAX_HEAD:
            self._end(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._head_is_here()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of the body is there."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of the body is there; what comes now is another head."""
        self._in_head, self._overhead = True, 0
        super().on_message_complete()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.head_timeout, self._end, b"408 Request Timeout")

    def _head_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, status: bytes) -> None:
        """Close the connection, with a word of why where no other answer is under way."""
        self._head_is_here()
        if self.transport.is_closing():
            return
        if self._overhead and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: a server may ignore an offer to upgrade."""


def uvicorn_server(
    app: FastAPI, head_timeout: float, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    """uvicorn for an application, with the protocol above.

    Args:
        app: What answers.
        head_timeout: Seconds in which the head of a request must have arrived.
        certificate: PEM file; with it, the server speaks https.
        key: PEM file with the certificate's key, where that is not in the same file.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=type("GuardedProtocol", (GuardedProtocol,), {"head_timeout": head_timeout}),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
    )
