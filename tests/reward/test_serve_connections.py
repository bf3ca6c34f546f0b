"""What the server's connections go through: queues that are full, memory, refusals, clients that go away."""

import gc
import http.client
import socket
import time

import pytest

from reward_plugin.app import Limits, build_app
from reward_plugin.images import to_npy
from reward_plugin.server import edge
from reward_plugin.server.http import GuardedProtocol
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.helpers import ChannelMeans, plain
from tests.reward.serving import serving, until
from tests.reward.test_serve import HEAD, answer, get, send

KIND, BODY = encode_request(ScoreRequest((to_npy(plain(9, 8)),)))
WHOLE = f"POST /v1/score HTTP/1.1\nHost: x\nContent-Type: {KIND}\nContent-Length: {len(BODY)}\n\n"


@pytest.mark.parametrize("path", ["/v1/score", "/compute"])
def test_a_full_queue_refuses_before_the_body_is_sent(path: str):
    channels = ChannelMeans()
    with serving(build_app([channels], limits=Limits(max_waiting=0))) as port:
        until(lambda: get(port, "/ready").status_code == 200)
        channels.go.clear()
        with send(port, WHOLE, BODY):
            until(lambda: get(port, "/health").json()["requests"] == 1)
            with send(port, HEAD.replace("/v1/score", path) + "Expect: 100-continue\n\n") as refused:
                assert refused.recv(100).startswith(b"HTTP/1.1 503 ")
            channels.go.set()


def test_json_has_a_smaller_limit():
    with serving(build_app([ChannelMeans()])) as port:
        with send(port, HEAD.replace("1000", str(17 << 20)) + "Expect: 100-continue\n\n") as refused:
            assert refused.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_undeclared_length_takes_memory_as_it_comes_and_gives_it_back():
    head = HEAD.replace("Content-Length: 1000", "Transfer-Encoding: chunked")
    with serving(build_app([ChannelMeans()], limits=Limits(max_bytes=2500, max_memory=2500))) as port:
        chunk = b"3e8\r\n" + bytes(1000) + b"\r\n"
        for i in range(3):  # what one gives back, the next may take
            half = send(port, head + "\n", chunk)
            until(lambda: "\nreward_held_bytes 1000.0\n" in get(port, "/metrics").text)
            half.sendall(chunk)
            until(lambda: "\nreward_held_bytes 2000.0\n" in get(port, "/metrics").text)
            with send(port, head + "\n", chunk) as another:  # together they would have 3000
                assert another.recv(100).startswith(b"HTTP/1.1 503 ")
            if i == 0:
                half.sendall(b"0\r\n\r\n")
                assert half.recv(100).startswith(b"HTTP/1.1 400 ")
            half.close()
            until(lambda: "\nreward_held_bytes 0.0\n" in get(port, "/metrics").text)


def test_the_pictures_of_a_client_that_is_gone_count_until_they_are_scored():
    channels = ChannelMeans()
    with serving(build_app([channels])) as port:
        until(lambda: get(port, "/ready").status_code == 200)
        channels.go.clear()
        connection = send(port, WHOLE, BODY)
        until(lambda: get(port, "/health").json()["requests"] == 1)
        time.sleep(0.1)  # it has come to the scorer
        connection.close()
        time.sleep(0.3)
        assert f"\nreward_held_bytes {len(BODY)}.0\n" in get(port, "/metrics").text
        channels.go.set()
        until(lambda: "\nreward_held_bytes 0.0\n" in get(port, "/metrics").text)
        assert 'reward_requests_total{route="/v1/score",status="499"} 1.0' in get(port, "/metrics").text


def test_one_connection_carries_any_number_of_requests():
    with serving(build_app([ChannelMeans()])) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(100):
            connection.request("GET", "/health", headers={"X-Long": "x" * 1000})
            assert connection.getresponse().read()
        connection.close()


def test_half_a_head_behind_a_request_is_not_taken_for_its_answer():
    channels = ChannelMeans()
    with serving(build_app([channels]), head_timeout=0.5) as port:
        until(lambda: get(port, "/ready").status_code == 200)
        channels.go.clear()
        with send(port, WHOLE, BODY) as connection:
            until(lambda: get(port, "/health").json()["requests"] == 1)
            connection.sendall(b"GET /health HT")
            assert connection.recv(100) == b""  # rather than a 408
        channels.go.set()


def test_connections_that_are_gone_leave_nothing_behind():
    def connections() -> int:
        time.sleep(0.1)
        gc.collect()
        return sum(isinstance(thing, GuardedProtocol) for thing in gc.get_objects())

    with serving(build_app([ChannelMeans()])) as port:
        until(lambda: connections() == 0)
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        until(lambda: connections() == 5)
        for connection in held:
            connection.close()
        until(lambda: connections() == 0)


def test_a_client_that_sends_everything_before_it_reads_still_sees_why_it_is_refused():
    body = bytes(20_000_000)  # more than the sockets hold
    with serving(build_app([ChannelMeans()], token="secret")) as port:
        with send(port, HEAD.replace("1000", str(len(body))) + "\n", body) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_who_was_too_slow_is_not_waited_for_any_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edge, "DRAIN_SECONDS", 600)
    with serving(build_app([ChannelMeans()], limits=Limits(read_timeout=0.5))) as port:
        assert answer(send(port, HEAD + "\n", b"{"))[0] == 408


def test_the_rest_of_a_refused_request_is_taken_for_some_time_and_up_to_a_size(
    monkeypatch: pytest.MonkeyPatch,
):
    app = build_app([ChannelMeans()], limits=Limits(max_bytes=100_000))
    endless = HEAD.replace("1000", str(1 << 40)) + "\n"
    with serving(app) as port:
        monkeypatch.setattr(edge, "DRAIN_SECONDS", 0.5)
        assert answer(send(port, endless))[0] == 413  # and then closed, though nothing came
        monkeypatch.setattr(edge, "DRAIN_SECONDS", 600)
        with send(port, endless) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            for _ in range(1000):
                connection.sendall(bytes(50_000))
                time.sleep(0.001)
