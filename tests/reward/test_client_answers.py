"""Answers that no reward server gives, or that another one gives, and addresses that are none."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trustme
from starlette.testclient import TestClient

from reward_plugin import connection
from reward_plugin.address import is_local
from reward_plugin.app import build_app
from reward_plugin.client import RewardClient
from reward_plugin.errors import ConfigError, ProtocolError, ServerUnavailable
from reward_plugin.server.http import uvicorn_server
from reward_plugin.types import ImageLike
from tests.reward.helpers import ChannelMeans, PromptLength, plain
from tests.reward.serving import serving
from tests.reward.transports import InMemory, Unreliable

#: Answers with status 200 to a request with one picture.
GARBAGE: dict[str, Any] = {
    "a page": b"<html>Sign in</html>",
    "nothing": b"",
    "not text": b"\xff\xfe\x00",
    "no object": b"[1]",
    "null": b"null",
    "too deep": b"[" * 200_000,
    "another object": b'{"status": "ok"}',
    "another version": {"version": 2},
    "NaN for a number": {"values": [[float("nan")]]},
    "an infinite number": {"values": [[float("inf")]]},
    "a number beyond any float": {"values": [[10**400]]},
    "a number beyond float32": {"values": [[1e39]]},
    "text for a number": {"values": [["much"]]},
    "no reason for a missing score": {"values": [[None]]},
    "a column too many": {"values": [[1, 2]]},
    "a row too many": {"values": [[1], [2]], "errors": [None, None]},
    "no row": {"values": [], "errors": []},
    "errors that are none": {"errors": None},
    "for another request": {"id": "somebody's"},
    "for no request": {"id": None},
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_answer_is_neither_a_score_nor_tried_again(kind: str):
    with Unreliable(GARBAGE[kind]) as server, RewardClient(server.url) as client:
        with pytest.raises(ProtocolError):
            client.score([plain(0, 0)])
        assert len(server.times) == 1


@pytest.mark.parametrize(
    "about", [b"[]", b"{}", b'{"dimensions": "red"}', b'{"dimensions": ["a"], "limits": 3}']
)
def test_a_description_that_is_none(about: bytes, monkeypatch: pytest.MonkeyPatch):
    with Unreliable(200) as server, RewardClient(server.url) as client:
        monkeypatch.setattr(server, "about", about)
        with pytest.raises(ProtocolError):
            client.score([plain(0, 0)])
        assert not server.times


def test_an_answer_without_end_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "MAX_BYTES", 5000)
    with Unreliable(b" " * 4000 + b"{}", b" " * 6000) as server, RewardClient(server.url) as client:
        with pytest.raises(ProtocolError, match="not a score response"):
            client.score([plain(0, 0)])
        with pytest.raises(ProtocolError, match="more than 5000 bytes"):
            client.score([plain(1, 0)])


def test_a_server_that_speaks_too_slowly_is_given_up_on():
    """Each of its bytes comes in time, but the answer does not."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        peer, _ = listener.accept()
        peer.recv(1 << 16)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not over.wait(0.05):
            try:
                peer.sendall(b" ")
            except OSError:
                over.set()

    threading.Thread(target=drip, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listener, RewardClient(url, timeout=0.4, max_outage=0) as client:
        with pytest.raises(ServerUnavailable, match="took too long"):
            assert client.dimensions
        assert over.wait(30)  # and it is told


class SmallDoor(InMemory):
    """A proxy that lets no large requests through."""

    refused = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if len(request.read()) > 50_000:
            self.refused += 1
            return httpx.Response(413, content=b"<html>too large</html>")
        return super().handle_request(request)


def test_what_a_proxy_finds_too_large_is_sent_in_parts_and_it_is_remembered():
    channels = ChannelMeans()
    noise = np.random.default_rng(0).integers(0, 256, (32, 50, 50, 3), np.uint8)  # 8 kB each
    with TestClient(build_app([channels])) as app:
        door = SmallDoor(app)
        with RewardClient("http://server", concurrency=1, transport=door) as client:
            for _ in range(2):
                first = door.refused
                table = client.score(list(noise), [str(i) for i in range(32)])
                np.testing.assert_allclose(table.values, noise.mean(axis=(1, 2))[:, :2], rtol=1e-6)
                noise = noise[:, ::-1].copy()  # other pictures
            assert first == door.refused > 0
            huge = client.score([*noise[:2, ::-1], noise.reshape(200, 400, 3)])
    assert [error is None for error in huge.errors] == [True, True, False]
    assert "HTTP 413" in (huge.errors[2] or "")


# --- another model


@pytest.fixture
def apps() -> Iterator[dict[str, TestClient]]:
    """Servers by host: two that are alike but for what scores, and one with other dimensions."""
    with (
        TestClient(build_app([ChannelMeans()], scored_by="channels@1")) as one,
        TestClient(build_app([ChannelMeans()], scored_by="channels@2")) as two,
        TestClient(build_app([PromptLength()], scored_by="channels@1")) as letters,
    ):
        yield {"one": one, "two": two, "letters": letters}


class Hosts(InMemory):
    """The applications by name; `route` sends the requests to one host to another."""

    def __init__(self, apps: dict[str, TestClient]) -> None:
        self.apps, self.route = apps, dict[str, str]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.app = self.apps[self.route.get(host, host)]
        return super().handle_request(request)


@pytest.mark.parametrize("other", ["two", "letters"])
def test_a_server_that_is_another_one_since_is_as_good_as_away(
    apps: dict[str, TestClient], other: str, caplog: pytest.LogCaptureFixture
):
    """No request failed meanwhile, so nothing but its answers can tell."""
    hosts = Hosts(apps)
    with RewardClient("http://one", max_outage=0.5, transport=hosts) as client:
        client.wait_ready(30)
        first = client.score([plain(1, 2)])
        hosts.route["one"] = other
        words = r"its scores are by .*(channels@2|letters).* began with .*(channels@1|red)"
        with pytest.raises(ServerUnavailable, match=words):
            client.score([plain(3, 4)])
        assert "trying again" in caplog.text
        np.testing.assert_array_equal(client.score([plain(1, 2)]).values, first.values)  # remembered
        with pytest.raises(ConfigError, match=f"url http://one: {words}"):
            client.wait_ready(30)
        hosts.route.clear()  # started with its former config
        assert client.score([plain(3, 4)], deadline=60).values.tolist() == [[3, 4]]


@pytest.mark.parametrize("other", ["two", "letters"])
def test_servers_that_differ_are_refused_and_never_mixed(apps: dict[str, TestClient], other: str):
    with RewardClient(["http://one", f"http://{other}"], transport=Hosts(apps)) as client:
        with pytest.raises(ConfigError, match=f"url http://{other}: its scores are by .*began with"):
            client.wait_ready(30)
    with RewardClient(["http://one", f"http://{other}"], batch_size=1, transport=Hosts(apps)) as client:
        assert client.score([plain(i, 0) for i in range(6)]).values[:, 0].tolist() == [*range(6)]


# --- addresses


@pytest.mark.parametrize(
    "url",
    ["localhost:8100", "ftp://host:1", "http://", "http://a:99999", "http://a:x", "http://a:0", "http://a:1?b",
     "http://a:1/#b", "http://a :1", "http://a:1 ", "http://[::1", "http://ä:1", ""],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_at_once(url: str):
    with pytest.raises(ConfigError, match="write it as http://host:port"):
        RewardClient(url)


def test_a_secret_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match=r"host 'server'.*token_file") as caught:
        RewardClient("https://me:hunter2@server:8100")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "raw"),
    [("http://127.0.0.1:1", True), ("http://LOCALHOST:1/", True), ("http://[::1]:1", True),
     ("http://10.0.0.1:1", False), ("https://gpu.example:443/rewards", False)],
)  # fmt: skip
def test_pictures_are_raw_only_for_this_machine(url: str, raw: bool):
    assert is_local(url) is raw


@pytest.mark.parametrize(
    ("urls", "kind"),
    [
        (["http://127.0.0.1"], b"x-npy"),
        (["http://far"], b"octet-stream"),
        (["http://127.0.0.1", "http://far"], b"octet-stream"),
    ],
)
def test_what_travels_is_raw_or_a_png_with_the_same_pixels(urls: list[str], kind: bytes):
    bodies: list[bytes] = []

    class Look(InMemory):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            bodies.append(request.read())
            return super().handle_request(request)

    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    with TestClient(build_app([ChannelMeans()])) as app, RewardClient(urls, transport=Look(app)) as client:
        np.testing.assert_allclose(client.score([noise]).values, [noise.mean(axis=(0, 1))[:2]], rtol=1e-6)
    sent = b"".join(bodies)
    assert kind in sent and (b"\x89PNG" in sent) is (kind == b"octet-stream")


def test_a_path_before_the_servers_own():
    class Behind(InMemory):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            path = request.url.raw_path.removeprefix(b"/rewards")
            assert path != request.url.raw_path
            request.url = request.url.copy_with(raw_path=path)
            return super().handle_request(request)

    with TestClient(build_app([ChannelMeans()])) as app:
        with RewardClient("http://server/rewards/", transport=Behind(app)) as client:
            client.wait_ready(30)
            assert client.score([plain(5, 6)]).values.tolist() == [[5, 6]]


def test_the_loopback_of_ipv6():
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = uvicorn_server(build_app([ChannelMeans()]), 60)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with RewardClient(f"http://[::1]:{listener.getsockname()[1]}") as client:
        client.wait_ready(60)
        assert client.score([plain(5, 6)]).values.tolist() == [[5, 6]]
    server.should_exit = True
    thread.join()


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Unreliable(200) as server, RewardClient(server.url, max_outage=0) as client:
        assert client.score([plain(0, 0)]).values.tolist() == [[42]]


def test_without_ca_file_the_machine_decides_whom_to_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    authority = trustme.CA()
    served, trusted = tmp_path / "server.pem", tmp_path / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(served))
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(trusted))
    with serving(build_app([ChannelMeans()]), certificate=served) as port:
        with RewardClient(f"https://127.0.0.1:{port}", max_outage=5) as client:
            assert client.score([plain(7, 8)]).values.tolist() == [[7, 8]]


def test_one_connection_serves_many_requests():
    images: list[ImageLike] = [plain(i, 0) for i in range(20)]
    with serving(build_app([ChannelMeans()])) as port:
        with RewardClient(f"http://127.0.0.1:{port}", concurrency=1) as client:
            client.wait_ready(60)
            addresses = set()
            pool = client._session.connection._http
            send = pool.send

            def note(*args: Any, **options: Any) -> httpx.Response:
                answer = send(*args, **options)
                stream = answer.extensions["network_stream"]
                addresses.add(stream.get_extra_info("client_addr"))
                return answer

            pool.send = note  # type: ignore[method-assign]
            for image in images:
                client.score([image])
    assert len(addresses) == 1


def test_a_client_may_wait_longer_than_a_request_takes():
    with Unreliable(lambda: time.sleep(0.05)) as server, RewardClient(server.url, timeout=5) as client:
        assert client.score([plain(0, 0)], deadline=60).values.tolist() == [[42]]
