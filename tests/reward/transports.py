"""Where requests go in tests: an application of this process, a server that misbehaves, nobody."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from starlette.testclient import TestClient

from reward_plugin.types import ScoreTable
from reward_plugin.wire import decode_request, encode_response


class InMemory(httpx.BaseTransport):
    """Carries requests into an application of this process."""

    def __init__(self, app: TestClient) -> None:
        self.app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self.app.request(
            request.method,
            request.url.raw_path.decode(),
            content=request.read(),
            headers=dict(request.headers),
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class Unreliable(ThreadingHTTPServer):
    """Gives the listed answers to scoring requests in turn, the last one for ever.

    An answer is a status, a status with headers, "hang up", a function to call before answering 200, the
    bytes of a body, or keys to replace in the message of a good answer.

    Args:
        answers: See above.
        count: Rows of a good answer.
        describe: Whether GET /v1/scorers and /ready are answered as a reward server does.
    """

    daemon_threads = True

    def __init__(self, *answers: object, count: int = 1, describe: bool = True) -> None:
        self.answers: list[Any] = list(answers)
        self.times, self.bodies = list[float](), list[bytes]()
        self.count, self.describe, self.about = count, describe, b'{"dimensions": ["red"]}'
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Unreliable)
        self.server.times.append(time.monotonic())
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body)
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "hang up":
            self.close_connection = True
            return
        if callable(answer):
            answer()
            answer = 200
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        table = ScoreTable.computed(("red",), [[42]] * self.server.count)
        if isinstance(status, bytes):
            return self._send(200, headers, status)
        change, status = (status, 200) if isinstance(status, dict) else ({}, status)
        name = decode_request(self.headers["content-type"], body).id
        message = encode_response(table, name) | change if status == 200 else {"error": {"message": "no"}}
        self._send(status, headers, json.dumps(message).encode())

    def do_GET(self) -> None:
        assert isinstance(self.server, Unreliable)
        self._send(200 if self.server.describe else 404, {}, self.server.about)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
