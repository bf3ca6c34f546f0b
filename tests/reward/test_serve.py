"""The server behind real sockets: slow, half-sent and broken-off requests, large bodies, and TLS."""

import base64
import gc
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from reward_plugin.app import Limits, build_app
from reward_plugin.client import RewardClient
from reward_plugin.errors import ConfigError, RequestRefused, ServerUnavailable
from reward_plugin.images import to_npy, to_png
from reward_plugin.serve import ServeConfig, serve
from reward_plugin.server import http as server_http
from reward_plugin.server.openapi import CURL, PYTHON
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.helpers import ChannelMeans, PromptLength, plain
from tests.reward.serving import serving, until

#: Connections are not kept, so that a server can stop at once.
CLIENT = httpx.Client(trust_env=False, timeout=60, headers={"Connection": "close"})


def post(port: int, *images: bytes, **options: Any) -> httpx.Response:
    kind, body = encode_request(ScoreRequest(images, **options))
    url = f"http://127.0.0.1:{port}/v1/score"
    return CLIENT.post(url, content=body, headers={"Content-Type": kind})


def get(port: int, path: str) -> httpx.Response:
    return CLIENT.get(f"http://127.0.0.1:{port}{path}")


def send(port: int, head: str, body: bytes = b"") -> socket.socket:
    """A connection over which the beginning of a request has gone."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.replace("\n", "\r\n").encode() + body)
    return connection


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of what comes back, after which the server has closed the connection."""
    with connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        text = response.read()
        assert connection.recv(1) == b""
        return response.status, json.loads(text or b"{}")


HEAD = "POST /v1/score HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 1000\n"


def test_a_half_sent_request_times_out_and_gives_back_its_memory():
    app = build_app([ChannelMeans()], limits=Limits(read_timeout=3, max_bytes=1500, max_memory=1500))
    with serving(app) as port:
        half = send(port, HEAD + "\n", b"{")
        until(lambda: "reward_held_bytes 1000.0" in get(port, "/metrics").text)
        busy = post(port, to_npy(plain(1, 2, (12, 12))))
        assert busy.status_code == 503 and int(busy.headers["retry-after"]) >= 1
        status, error = answer(half)
        assert status == 408 and "1 bytes of it had" in error["error"]["message"]
        assert post(port, to_npy(plain(1, 2, (12, 12)))).status_code == 200
        assert "reward_held_bytes 0.0" in get(port, "/metrics").text


def test_half_a_head_and_no_head_at_all_time_out():
    with serving(build_app([ChannelMeans()]), head_timeout=1.5) as port:
        half, silent = send(port, "POST /v1/score HTT"), send(port, "")
        idle = http.client.HTTPConnection("127.0.0.1", port)
        for pause in (2, 0):  # between requests, it may be silent
            idle.request("GET", "/health")
            assert b"alive" in idle.getresponse().read()
            time.sleep(pause)
        idle.sock.sendall(b"GET /health HTT")
        assert answer(idle.sock)[0] == 408
        assert answer(half)[0] == 408
        with silent:
            assert silent.recv(1) == b""


def test_a_head_without_end_is_refused():
    with serving(build_app([ChannelMeans()])) as port:
        connection = send(port, "GET /health HTTP/1.1\nHost: x\n", b"X-Long: " + b"x" * 70_000)
        assert answer(connection)[0] == 431


@pytest.mark.parametrize("flood", [b"0\r\n" + b"X-Trailer: x\r\n" * 9000, b"0\r\nX: ", b"2;"])
def test_a_chunked_body_without_end_is_refused_where_it_is_no_body(flood: bytes):
    head = HEAD.replace("Content-Length: 1000", "Transfer-Encoding: chunked")
    with serving(build_app([ChannelMeans()])) as port:
        connection = send(port, head + "\n", b"2\r\n{}\r\n" + flood)
        connection.settimeout(30)
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            for _ in range(1000):
                connection.sendall(b"x" * 10_000)
                time.sleep(0.001)
        connection.close()
        assert get(port, "/health").status_code == 200


def test_a_client_may_wait_for_leave_to_send_its_body():
    kind, body = encode_request(ScoreRequest((to_npy(plain(1, 2)),)))
    head = f"POST /v1/score HTTP/1.1\nHost: x\nContent-Type: {kind}\nExpect: 100-continue\n"
    app = build_app([ChannelMeans()], limits=Limits(max_bytes=10_000))
    with serving(app) as port:
        with send(port, f"{head}Connection: close\nContent-Length: {len(body)}\n\n") as accepted:
            assert accepted.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            accepted.sendall(body)
            assert answer(accepted)[0] == 200
        with send(port, f"{head}Content-Length: 20000\n\n") as refused:
            assert refused.recv(100).startswith(b"HTTP/1.1 413 ")


def test_requests_in_one_piece_are_answered_in_order():
    kind, first = encode_request(ScoreRequest((to_npy(plain(1, 2)),)))
    head = f"POST /v1/score HTTP/1.1\nHost: x\nContent-Type: {kind}\nContent-Length: {len(first)}\n\n"
    piece = head.replace("\n", "\r\n").encode() + first
    with serving(build_app([ChannelMeans()]), host="::1") as port:
        with socket.create_connection(("::1", port), timeout=60) as connection:
            second = piece.replace(bytes(plain(1, 2)), bytes(plain(3, 4)))
            connection.sendall(piece + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + second)
            stream = connection.makefile("rb")
            answers = []
            for _ in range(3):
                length = next(int(line[15:]) for line in stream if line.startswith(b"content-length:"))
                while stream.readline() != b"\r\n":
                    pass
                answers.append(json.loads(stream.read(length)))
    assert answers[0]["values"] == [[1, 2]] and answers[2]["values"] == [[3, 4]]
    assert answers[1]["status"] == "alive"


def test_a_request_that_is_too_large_is_refused_before_it_is_read():
    app = build_app([ChannelMeans()], limits=Limits(max_bytes=100_000))
    with serving(app) as port:
        connection = send(port, HEAD.replace("1000", str(1 << 40)) + "\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 413 and response.getheader("connection") == "close"
        response.close()
        connection.close()
        body = bytes(300_000)  # a client that sends everything before it reads still sees why
        url = f"http://127.0.0.1:{port}/v1/score"
        refused = CLIENT.post(url, content=body, headers={"Content-Type": "application/json"})
        assert refused.status_code == 413 and "100000" in refused.json()["error"]["message"]


def test_the_job_of_a_client_that_hangs_up_is_dropped():
    channels = ChannelMeans()
    kind, body = encode_request(ScoreRequest((to_npy(plain(9, 9)),) * 3))
    head = f"POST /v1/score HTTP/1.1\nHost: x\nContent-Type: {kind}\nContent-Length: {len(body)}\n\n"
    with serving(build_app([channels])) as port:
        until(lambda: get(port, "/ready").status_code == 200)
        channels.go.clear()
        scored = threading.Thread(target=post, args=(port, to_npy(plain(1, 1)), to_npy(plain(2, 2))))
        scored.start()
        until(lambda: get(port, "/health").json()["requests"] == 1)
        impatient = [send(port, head, body) for _ in range(3)]
        until(lambda: get(port, "/health").json()["requests"] == 4)
        for connection in impatient:
            connection.close()
        until(lambda: get(port, "/health").json()["requests"] == 1)
        channels.go.set()
        scored.join()
        assert post(port, to_npy(plain(1, 1))).status_code == 200
        text = get(port, "/metrics").text
    assert channels.batches == [1, 2, 1]  # the warm-up, and the two whose clients stayed
    assert 'reward_requests_total{route="/v1/score",status="499"} 3.0' in text


def test_health_answers_while_large_requests_are_read_and_scored():
    channels = ChannelMeans()
    large = to_npy(plain(1, 2, (1000, 1500)))
    with serving(build_app([channels])) as port:
        done = threading.Event()

        def load() -> None:
            post(port, *[large] * 8)  # 36 MB in multipart
            as_json = {"images": [base64.b64encode(large).decode()]}
            CLIENT.post(f"http://127.0.0.1:{port}/v1/score", json=as_json)
            done.set()

        threading.Thread(target=load).start()
        seconds = []
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while not done.is_set():
            start = time.monotonic()
            connection.request("GET", "/health")
            connection.getresponse().read()
            seconds.append(time.monotonic() - start)
            time.sleep(0.02)
    assert sorted(seconds)[len(seconds) // 2] < 0.1  # generous, for a busy machine


def test_tls_with_a_token_and_an_authority_of_its_own(tmp_path: Path):
    authority = trustme.CA()
    served, trusted = tmp_path / "server.pem", str(tmp_path / "authority.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(served))
    authority.cert_pem.write_to_path(trusted)
    with serving(build_app([ChannelMeans()], token="s"), certificate=served) as port:
        address = f"https://127.0.0.1:{port}"
        with RewardClient(address, token="s", ca_file=trusted) as rewards:
            assert rewards.score([plain(7, 8)]).values.tolist() == [[7.0, 8.0]]
        with RewardClient(address, ca_file=trusted) as stranger, pytest.raises(RequestRefused, match="401"):
            stranger.score([plain(7, 8)])
        with RewardClient(address, token="s", max_outage=0) as wary:
            with pytest.raises(ServerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                wary.score([plain(7, 8)])
        with pytest.raises(httpx.TransportError):
            get(port, "/health")


def test_authorities_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"ca_file gone\.pem: No such file"):
        RewardClient("https://127.0.0.1:1", ca_file="gone.pem")
    with pytest.raises(ConfigError, match="holds no certificates"):
        RewardClient("https://127.0.0.1:1", ca_file=__file__)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tls_key": Path("key.pem")}, "set tls_certificate, too"),
        ({"tls_certificate": Path("gone.pem")}, "tls_certificate gone.pem: no such file"),
        ({"tls_certificate": Path(__file__)}, "cannot be used with its key"),
        ({"host": "0.0.0.0"}, "a token is required"),
        ({"port": 0, "max_memory": 5}, "max_memory 5: less than one request"),
        ({"port": 0, "read_timeout": 0}, "read_timeout 0: it must be greater than 0"),
    ],
)
def test_settings_that_cannot_be_served(
    settings: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=reason):
        serve(ServeConfig(scorers=[{"name": "pixels"}], **settings))


def test_a_collection_of_garbage_does_not_go_through_the_models(monkeypatch: pytest.MonkeyPatch):
    frozen = []

    class Stopped:
        def run(self, sockets: list[socket.socket]) -> None:
            frozen.append(gc.get_freeze_count())
            sockets[0].close()

    monkeypatch.setattr(server_http, "uvicorn_server", lambda *args: Stopped())
    try:
        serve(ServeConfig(scorers=[{"name": "pixels"}], port=0))
    finally:
        gc.unfreeze()
    assert frozen[0] > 10_000


def test_the_samples_of_the_documentation_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with serving(build_app([ChannelMeans(), PromptLength()])) as port:
        page = get(port, "/docs").text
        assert "square.png" in page and "np.save" in page and "http://" not in page.replace("http://127.", "")
        exec(PYTHON.replace("8100", str(port)), {})
        grey = "{'red': 200.0, 'green': 200.0, 'letters': 13.0} None"
        black = "{'red': 0.0, 'green': 0.0, 'letters': 14.0} None"
        assert capsys.readouterr().out.splitlines() == [grey, black]
        if shutil.which("curl"):
            (tmp_path / "square.png").write_bytes(to_png(plain(7, 8)))
            script = CURL.replace("8100", str(port))
            done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True)
            assert json.loads(done.stdout)["values"] == [[7.0, 8.0, 16.0]]
