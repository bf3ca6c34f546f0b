"""The server's application, without a socket."""

import base64
import gzip
import hmac
import io
import os
import pickle
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from reward_plugin.app import Limits, build_app
from reward_plugin.errors import ConfigError
from reward_plugin.images import to_npy, to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.scorers.ocr import OcrScorer
from reward_plugin.server import body, readiness
from reward_plugin.types import ImageLike, ScoreTable
from reward_plugin.wire import ScoreRequest, decode_json, decode_response, encode_request
from tests.reward.helpers import Broken, ChannelMeans, PromptLength, plain
from tests.reward.serving import until


@pytest.fixture
def channels() -> ChannelMeans:
    return ChannelMeans()


@pytest.fixture
def server(channels: ChannelMeans) -> Iterator[TestClient]:
    limits = Limits(max_items=4, max_bytes=5000, max_pixels=1000, max_waiting=1)
    with TestClient(build_app([channels, PromptLength()], limits=limits)) as client:
        wait_until_ready(client)
        yield client


def wait_until_ready(client: TestClient) -> None:
    for _ in range(500):
        if client.get("/ready").status_code == 200:
            return
        time.sleep(0.01)
    raise AssertionError(client.get("/ready").text)


def post(client: TestClient, *images: bytes, **options: Any) -> Any:
    kind, body = encode_request(ScoreRequest(images, **options))
    return client.post("/v1/score", content=body, headers={"Content-Type": kind})


def error_of(response: Any) -> str:
    return str(response.json()["error"]["message"])


def test_scores_come_back_in_order_with_the_callers_id(server: TestClient):
    images = [to_png(plain(1, 2)), to_npy(plain(3, 4))]
    response = post(server, *images, prompts=("a", "bb"), id="run 7")
    assert response.status_code == 200 and response.json()["id"] == "run 7"
    table = decode_response(response.json())
    assert table.dimensions == ("red", "green", "letters")
    assert table.values.tolist() == [[1, 2, 1], [3, 4, 2]]


def test_json_with_base64(server: TestClient):
    message = {
        "version": 1,
        "images": [base64.b64encode(to_png(plain(5, 6))).decode()],
        "scorers": ["channels"],
    }
    assert server.post("/v1/score", json=message).json()["values"] == [[5.0, 6.0]]


def test_an_unreadable_picture_is_a_null_row_with_its_reason(server: TestClient):
    large = to_npy(plain(0, 0, (40, 30)))
    answer = post(server, to_png(plain(1, 2)), b"junk", large, scorers=("channels",)).json()
    assert answer["values"] == [[1.0, 2.0], [None, None], [None, None]]
    assert answer["errors"][0] is None and "not one of PNG" in answer["errors"][1]
    assert "30x40 is more than 1000 pixels" in answer["errors"][2]


class Trap:
    """Unpickling one makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(server: TestClient, tmp_path: Path):
    trap, file = Trap(tmp_path / "sprung"), io.BytesIO()
    np.save(file, np.array([trap, trap, trap]).reshape(1, 1, 3), allow_pickle=True)
    answer = post(server, file.getvalue(), pickle.dumps(trap), scorers=("channels",)).json()
    assert answer["values"] == [[None, None]] * 2 and "it must be uint8" in answer["errors"][0]
    assert server.post("/", content=pickle.dumps(trap)).status_code == 415
    assert server.post("/compute", content=pickle.dumps(trap)).status_code == 415
    assert not trap.folder.exists()
    file.seek(0)
    np.load(file, allow_pickle=True)
    assert trap.folder.exists()


def test_the_list_of_scorers_tells_dimensions_ranges_and_limits(server: TestClient):
    answer = server.get("/v1/scorers").json()
    assert answer["dimensions"] == ["red", "green", "letters"]
    assert answer["scorers"][0]["ranges"] == {"red": [0, 255], "green": [0, 255]}
    assert answer["limits"] == {"max_items": 4, "max_bytes": 5000}


def test_whole_requests_that_are_refused(server: TestClient):
    small = to_png(plain(1, 2))
    too_many = post(server, *[small] * 5)
    assert too_many.status_code == 413 and "5 images; this server takes 4" in error_of(too_many)
    far_too_many = post(server, *[small] * 10)
    assert far_too_many.status_code == 413 and "more than 6 parts" in error_of(far_too_many)
    too_large = post(server, bytes(6000))
    assert too_large.status_code == 413 and "5000" in error_of(too_large)
    as_json = {"Content-Type": "application/json"}
    undeclared = server.post("/v1/score", content=(bytes(1000) for _ in range(6)), headers=as_json)
    assert undeclared.status_code == 413
    malformed = server.post("/v1/score", content=b"{", headers={"Content-Type": "application/json"})
    assert malformed.status_code == 400 and "not valid JSON" in error_of(malformed)
    unknown = post(server, small, scorers=("hps",))
    zipped = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    for path in ("/v1/score", "/compute"):
        refused = server.post(path, content=gzip.compress(b'{"images": []}'), headers=zipped)
        assert refused.status_code == 400 and "send the body as it is" in error_of(refused)
    assert unknown.status_code == 404 and "no scorer 'hps' here; there are channels, letters" in error_of(
        unknown
    )
    assert post(server, small, scorers=("channels", "channels")).status_code == 400
    assert post(server, small).status_code == 200


def test_health_answers_while_scoring_and_a_full_queue_says_when_to_come_back(
    server: TestClient, channels: ChannelMeans
):
    channels.go.clear()
    small = to_png(plain(1, 2))
    with ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(post, server, small, scorers=("channels",)) for _ in range(2)]
        while server.get("/health").json()["requests"] < 2:  # one is scored, one waits
            time.sleep(0.005)
        assert server.get("/health").json()["status"] == "alive"
        assert "\nreward_queue_jobs 2.0\n" in server.get("/metrics").text
        refused = post(server, small)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        channels.go.set()
        assert [future.result().status_code for future in accepted] == [200, 200]
    assert post(server, small, scorers=("channels",)).status_code == 200


def test_not_ready_before_the_first_score(channels: ChannelMeans):
    channels.go.clear()
    with TestClient(build_app([channels])) as client:
        answer = client.get("/ready")
        assert answer.status_code == 503 and answer.json()["reason"] == "warming up"
        assert client.get("/health").status_code == 200
        assert client.head("/ready").status_code == 503 and client.head("/health").status_code == 200
        channels.go.set()
        wait_until_ready(client)


def test_a_scorer_that_fails_is_reported_and_never_ready():
    with TestClient(build_app([Broken()])) as client:
        response = post(client, to_png(plain(1, 2)))
        assert response.status_code == 500 and "'broken' failed: RuntimeError: out of memory" in error_of(
            response
        )
        assert client.get("/ready").status_code == 503
        assert "out of memory" in client.get("/ready").json()["reason"]


class Recovers(ChannelMeans):
    """Fails as long as it is told to."""

    fails = True

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().score(images, prompts)


def test_a_server_that_was_not_ready_finds_out_by_itself_that_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "RETRY_PERIOD", 0.05)
    scorer = Recovers()
    with TestClient(build_app([scorer])) as client:
        for _ in range(2):
            scorer.fails = True
            while client.get("/ready").status_code == 200:  # nobody but this client asks for scores
                assert post(client, to_png(plain(1, 2))).status_code == 500
            until(lambda: "out of memory" in client.get("/ready").json()["reason"])
            scorer.fails = False
            wait_until_ready(client)


def test_a_scorer_that_asks_for_a_quoted_text_becomes_ready():
    def reads_nothing(array: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(txts=None)

    with TestClient(build_app([OcrScorer(reads_nothing)])) as client:
        wait_until_ready(client)


def test_a_token_guards_the_scores_but_not_the_health(channels: ChannelMeans):
    with TestClient(build_app([channels], token="secret")) as client:
        assert client.get("/health").status_code == 200
        attempts: list[Any] = [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer s\xe9cret".encode("latin-1")},
        ]
        for headers in attempts:
            response = client.get("/v1/scorers", headers=headers)
            assert response.status_code == 401 and "token" in error_of(response)
            assert post(client, b"").status_code == 401
        assert client.get("/v1/scorers", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_only_the_whole_token_is_right_and_it_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return secrets.compare_digest(given, expected)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    token = "0123456789abcdef" * 4
    with TestClient(build_app([ChannelMeans()], token=token)) as client:
        for wrong in (token[:-1], token + "0", token.upper(), token[:-1] + "e", "", " " + token):
            answer = client.get("/v1/scorers", headers={"Authorization": f"Bearer {wrong}"})
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert len(compared) == 6
        assert client.get("/v1/scorers", headers={"Authorization": token}).status_code == 401
        for path in ("/health/x", "/docs/", "//health", "/metrics?/health"):
            assert client.get(path).status_code == 401
        for path in ("/health", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        wait_until_ready(client)


def test_the_engine_is_closed_with_the_application():
    engine = LocalEngine([ChannelMeans()])
    with TestClient(build_app(engine=engine)):
        assert engine.trouble() is None
    assert engine.trouble() == "the server is stopping"


def test_json_is_not_read_on_the_event_loop(server: TestClient, monkeypatch: pytest.MonkeyPatch):
    threads = []

    def note(data: bytes) -> ScoreRequest:
        threads.append(threading.current_thread().name)
        return decode_json(data)

    monkeypatch.setattr(body, "decode_json", note)
    assert server.post("/v1/score", json={"images": []}).status_code == 200
    assert threads[0].startswith("asyncio_")


def test_scorers_with_the_same_dimension_are_refused(channels: ChannelMeans):
    with pytest.raises(ConfigError, match="both give 'red'"):
        build_app([channels, ChannelMeans()])


def test_answers_are_never_crossed(server: TestClient):
    barrier = threading.Barrier(3)

    def ask(red: int) -> list[float]:
        barrier.wait()
        answers: list[float] = []
        while len(answers) < 10:
            response = post(server, to_npy(plain(red, 0)), scorers=("channels",))
            if response.status_code == 200:
                answers.append(response.json()["values"][0][0])
        return answers

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, (10, 20, 30))) == [[10.0] * 10, [20.0] * 10, [30.0] * 10]
