"""How a server stops: what it has accepted is answered, what it cannot finish is told to come back."""

import http.client
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from benchmarks.server_host import HOST, Server
from reward_plugin import local_engine
from reward_plugin.app import build_app
from reward_plugin.images import to_npy
from reward_plugin.server import http as server_http
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.helpers import ChannelMeans, plain
from tests.reward.serving import serving, until


def ask(port: int, red: int = 1) -> httpx.Response:
    kind, body = encode_request(ScoreRequest((to_npy(plain(red, 2)),)))
    url = f"http://{HOST}:{port}"
    return httpx.post(f"{url}/v1/score", content=body, headers={"Content-Type": kind}, trust_env=False)


def jobs(port: int) -> int:
    return int(httpx.get(f"http://{HOST}:{port}/health", trust_env=False).json()["requests"])


def stopped_while_two_are_asked(channels: ChannelMeans, after: Any) -> list[httpx.Response]:
    """Answers to a request that is scored and to one that waits, when the server is told to stop."""
    with ThreadPoolExecutor(2) as pool:
        with serving(build_app([channels])) as port:
            until(lambda: httpx.get(f"http://{HOST}:{port}/ready", trust_env=False).status_code == 200)
            channels.go.clear()
            answers = [pool.submit(ask, port, 1)]
            until(lambda: jobs(port) == 1)
            answers.append(pool.submit(ask, port, 2))
            until(lambda: jobs(port) == 2)
            threading.Timer(1, after).start()
        return [answer.result() for answer in answers]


def test_what_was_accepted_is_answered():
    channels = ChannelMeans()
    answers = stopped_while_two_are_asked(channels, channels.go.set)
    assert [answer.json()["values"] for answer in answers] == [[[1, 2]], [[2, 2]]]


def test_what_cannot_be_finished_in_time_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_http, "GRACE", 0.3)
    monkeypatch.setattr(local_engine, "LONGEST_CLOSE", 1.5)  # a scorer that hangs does not hold it up
    channels = ChannelMeans()
    try:
        answers = stopped_while_two_are_asked(channels, lambda: None)
    finally:
        channels.go.set()
    assert [answer.status_code for answer in answers] == [503, 503]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert {answer.json()["error"]["code"] for answer in answers} == {"stopping"}


def test_a_process_that_gets_sigterm_reads_on_but_lets_nobody_in():
    kind, body = encode_request(ScoreRequest((to_npy(plain(1, 2)),)))
    with Server(["benchmarks.server_stamp"]) as server:
        with socket.create_connection((HOST, server.port), timeout=60) as half:
            head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
            half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:50])
            until(lambda: f"reward_held_bytes {len(body)}.0" in server.get("/metrics")[1])
            server.system.send_signal(signal.SIGTERM)
            until(lambda: not lets_in(server.port))
            half.sendall(body[50:])
            response = http.client.HTTPResponse(half)
            response.begin()
            assert response.status == 200 and response.getheader("connection") == "close"
            response.read()
        until(lambda: not server.alive)
        assert server.exit_status == -signal.SIGTERM and "Traceback" not in server.log()


def lets_in(port: int) -> bool:
    time.sleep(0.05)
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
