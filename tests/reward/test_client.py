"""The client against our application, and against real sockets that misbehave."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from reward_plugin.app import Limits, build_app
from reward_plugin.client import LocalRewards, RewardClient, build_rewards
from reward_plugin.errors import (
    ConfigError,
    ProtocolError,
    RequestRefused,
    ScorerFailed,
    ServerBusy,
    ServerUnavailable,
)
from reward_plugin.retry import Backoff
from reward_plugin.types import ImageLike, Rewards, Scorer, ScoreTable
from reward_plugin.wire import encode_response
from tests.reward.helpers import Broken, ChannelMeans, PromptLength, plain


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
    """A real HTTP server that gives the listed answers in turn, the last one for ever.

    An answer is a status, a status with headers, or "hang up".
    """

    def __init__(self, *answers: object) -> None:
        self.answers, self.times = list(answers), list[float]()
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Unreliable)
        self.rfile.read(int(self.headers["content-length"]))
        self.server.times.append(time.monotonic())
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "hang up":
            self.close_connection = True
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        table = ScoreTable.computed(("red",), [[42]])
        body = json.dumps(encode_response(table) if status == 200 else {"error": {"message": "no"}}).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def channels() -> ChannelMeans:
    return ChannelMeans()


@pytest.fixture(params=["server", "local"])
def rewards(request: pytest.FixtureRequest, channels: ChannelMeans) -> Iterator[Rewards]:
    scorers: list[Scorer] = [channels, PromptLength()]
    if request.param == "local":
        with LocalRewards(scorers) as local:
            yield local
    else:
        with TestClient(build_app(scorers, limits=Limits(max_items=4))) as app:
            with RewardClient("http://server", batch_size=4, transport=InMemory(app)) as client:
                yield client


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_server_and_local_give_the_same_tables(rewards: Rewards):
    rewards.wait_ready(10)
    assert rewards.dimensions == ("red", "green", "letters")
    images = [plain(i, 2 * i) for i in range(10)]
    table = rewards.score(images, ["x" * (i + 1) for i in range(10)])
    assert table.errors == (None,) * 10
    np.testing.assert_array_equal(table.values, [[i, 2 * i, i + 1] for i in range(10)])


def test_bad_pictures_are_missing_with_their_reason(rewards: Rewards):
    images: list[ImageLike] = [torch.full((3, 4, 4), float("nan")), plain(1, 2), b"junk", "nowhere.png"]
    table = rewards.score(images, list("abcd"))
    np.testing.assert_array_equal(np.isnan(table.values).all(axis=1), [True, False, True, True])
    assert table.values[1].tolist() == [1, 2, 1]
    for error, words in zip(table.errors, ("[0, 1]", None, "not one of PNG", "no such file"), strict=True):
        assert (error is None) if words is None else words in (error or "")


def test_nothing_but_bad_pictures_and_nothing_at_all(rewards: Rewards):
    assert np.isnan(rewards.score(["nowhere.png"], ["a"]).values).all()
    assert rewards.score([]).values.shape == (0, 3)


def test_futures_overlap_with_the_caller(rewards: Rewards, channels: ChannelMeans):
    rewards.wait_ready(10)
    channels.go.clear()
    futures = [rewards.submit([plain(i, 0)], ["a"]) for i in range(3)]
    time.sleep(0.05)
    assert not any(future.done() for future in futures)
    channels.go.set()
    assert [future.result(10).values[0, 0] for future in futures] == [0, 1, 2]


def test_one_prompt_per_image(rewards: Rewards):
    with pytest.raises(ConfigError, match="2 prompts for 1 images"):
        rewards.score([plain(1, 2)], ["a", "b"])


def test_a_failing_scorer_raises(channels: ChannelMeans):
    with LocalRewards([Broken()]) as local, pytest.raises(ScorerFailed, match="out of memory"):
        local.score([plain(1, 2)])
    with (
        TestClient(build_app([Broken()])) as app,
        RewardClient("http://server", transport=InMemory(app)) as client,
    ):
        with pytest.raises(ScorerFailed, match=r"http://server.*out of memory"):
            client.score([plain(1, 2)])


def test_the_token_is_sent_and_its_absence_is_not_retried(channels: ChannelMeans):
    with TestClient(build_app([channels], token="secret")) as app:
        with RewardClient("http://server", token="secret", transport=InMemory(app)) as client:
            assert client.score([plain(7, 8)]).values.tolist() == [[7, 8]]
        with RewardClient("http://server", transport=InMemory(app)) as client:
            with pytest.raises(RequestRefused, match=r"401.*token"):
                client.score([plain(7, 8)])


def test_failures_are_retried_with_growing_waits():
    with Unreliable(502, "hang up", 503, 200) as server, RewardClient(server.url, max_wait=20) as client:
        assert client.score([plain(0, 0)]).values.tolist() == [[42]]
        waits = np.diff(server.times)
        server.shutdown()
    assert len(waits) == 3
    assert (waits > [0.12, 0.24, 0.49]).all()  # 0.25, 0.5, 1 seconds, each times at least 0.5


def test_retry_after_is_honoured():
    with Unreliable((503, {"Retry-After": "1"}), 200) as server, RewardClient(server.url) as client:
        client.score([plain(0, 0)])
        assert np.diff(server.times)[0] >= 1
        server.shutdown()


def test_a_busy_server_is_given_up_on_in_time():
    with Unreliable((503, {"Retry-After": "30"})) as server, RewardClient(server.url, max_wait=1) as client:
        with pytest.raises(ServerBusy, match=f"{server.url}.*HTTP 503.*1 attempts|1 attempts.*HTTP 503"):
            client.score([plain(0, 0)])
        server.shutdown()


def test_a_dead_server_is_named_with_the_wait_and_the_remedy():
    url = unused_url()
    with RewardClient(url, max_wait=0.8) as client:
        started = time.monotonic()
        with pytest.raises(
            ServerUnavailable, match=rf"{url} gave no usable answer for \d s .*reward_plugin serve"
        ):
            client.score([plain(0, 0)])
        assert time.monotonic() - started < 30
        with pytest.raises(ServerUnavailable, match=rf"{url} was not ready after \d s"):
            client.wait_ready(0.3)


def test_a_live_server_takes_over_from_a_dead_one(channels: ChannelMeans):
    with Unreliable(200) as server, RewardClient([unused_url(), server.url], max_wait=20) as client:
        for _ in range(3):
            assert client.score([plain(0, 0)]).values.tolist() == [[42]]
        server.shutdown()


def test_a_refusal_is_not_retried():
    with Unreliable(413) as server, RewardClient(server.url) as client:
        with pytest.raises(RequestRefused, match="413"):
            client.score([plain(0, 0)])
        assert len(server.times) == 1
        server.shutdown()


def test_another_service_on_the_port_is_noticed():
    with Unreliable(200) as server, RewardClient(server.url) as client:
        with pytest.raises(ProtocolError, match="2 images were sent, 1 scores came back"):
            client.score([plain(0, 0)] * 2)
        with pytest.raises(RequestRefused, match="404"):
            _ = client.dimensions
        server.shutdown()


def test_closing_does_not_wait_for_a_dead_server():
    client = RewardClient(unused_url(), max_wait=60)
    future = client.submit([plain(0, 0)])
    time.sleep(0.1)
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 30
    with pytest.raises(ServerUnavailable, match="closed"):
        future.result(0)


def test_waits_double_up_to_a_bound_and_end_at_the_deadline():
    now = 0.0
    attempts = Backoff(max_wait=100, first=1, longest=8).start(clock=lambda: now)
    delays = []
    while (delay := attempts.next_delay()) is not None:
        delays.append(delay)
        now += delay
    assert all(
        0.5 * expected <= delay <= 1.5 * expected
        for delay, expected in zip(delays, (1, 2, 4, 8, 8), strict=False)
    )
    assert 80 < now <= 100 and attempts.made == len(delays) + 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "either url"),
        ({"url": "http://x", "scorers": [{"name": "pixels"}]}, "either url"),
        ({"ulr": "http://x"}, "unknown key 'ulr'; known are url"),
        ({"url": "localhost:8100"}, "write it as http://host:port"),
        ({"url": "http://x", "batch_size": 0}, "batch_size 0"),
        ({"url": "http://x", "token_file": "nowhere"}, "token_file nowhere: No such file"),
        ({"scorers": [{"name": "pixel"}]}, "unknown name 'pixel'; known are unipercept, artimuse, clip"),
    ],
)
def test_a_wrong_config_is_refused_with_the_rule(config: dict[str, object], reason: str):
    with pytest.raises(ConfigError, match=reason):
        build_rewards(config)


def test_a_config_chooses_between_server_and_process():
    with build_rewards({"scorers": [{"name": "pixels"}]}) as local:
        assert isinstance(local, LocalRewards) and local.dimensions[-1] == "grid_energy"
    with build_rewards({"url": ["http://a:1", "http://b:2"], "max_wait": 3}) as client:
        assert isinstance(client, RewardClient)
