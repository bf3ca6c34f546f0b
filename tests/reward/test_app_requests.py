"""What holds for every request: choice of columns, ids, counters, examples, and no paths in errors."""

import base64
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from starlette.testclient import TestClient

from reward_plugin.app import Limits, build_app
from reward_plugin.images import to_npy, to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.scoring import columns
from reward_plugin.server.failures import public
from reward_plugin.server.metrics import Metrics
from reward_plugin.types import ImageLike, ScoreTable
from reward_plugin.wire import ScoreRequest, encode_request
from tests.reward.golden import CHECKPOINT
from tests.reward.helpers import Broken, ChannelMeans, PromptLength, plain
from tests.reward.serving import until


class Leaky(Broken):
    """Fails with the paths of the server in its words: as a whole, or for each item."""

    as_a_whole = True

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        if self.as_a_whole:
            raise FileNotFoundError(2, "No such file or directory", "/srv/models/secret/model.safetensors")
        table = ScoreTable.computed(self.dimensions, [])
        return table.scatter(["cannot open /srv/models/secret/words.txt"] * len(images))


@pytest.fixture
def server() -> Iterator[TestClient]:
    with TestClient(build_app([ChannelMeans(), PromptLength()])) as client:
        until(lambda: client.get("/ready").status_code == 200)
        yield client


def post(client: TestClient, *images: bytes, headers: dict[str, str] | None = None, **options: Any) -> Any:
    kind, body = encode_request(ScoreRequest(images, **options))
    return client.post("/v1/score", content=body, headers={"Content-Type": kind, **(headers or {})})


def message(response: Any) -> str:
    return str(response.json()["error"]["message"])


PICTURE = to_npy(plain(3, 4))


def test_dimensions_choose_columns_and_run_only_the_scorers_they_need():
    channels, letters = ChannelMeans(), PromptLength()
    client = TestClient(build_app([channels, letters]))
    answer = post(client, PICTURE, prompts=("abc",), dimensions=("letters", "green")).json()
    assert (answer["dimensions"], answer["values"]) == (["letters", "green"], [[3, 4]])
    batches = len(channels.batches)
    answer = post(client, PICTURE, prompts=("",), dimensions=("letters",)).json()
    assert (answer["values"], answer["errors"]) == ([[None]], ["an empty prompt"])
    assert len(channels.batches) == batches
    answer = post(client, PICTURE, prompts=("",), dimensions=("red",), scorers=("letters", "channels")).json()
    assert (answer["values"], answer["errors"]) == ([[3]], [None])


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"dimensions": ("iaa",)}, 404, "no dimension 'iaa' here; there are red, green, letters"),
        (
            {"dimensions": ("red",), "scorers": ("letters",)},
            404,
            "no dimension 'red' here; there are letters",
        ),
        ({"dimensions": ("red", "red")}, 400, "each once"),
        ({"dimensions": ()}, 400, "at least one dimension"),
        ({"ids": ("a", "b")}, 400, "2 ids for 1 images"),
        ({"prompts": ("\ud800",)}, 400, "lone surrogate"),
        ({"ids": ("\ud800",)}, 400, "lone surrogate"),
        ({"id": "\udfff"}, 400, "lone surrogate"),
        ({"id": 7}, 400, "id must be a text"),
        ({"id": "x" * 201}, 400, "at most 200 characters"),
    ],
)
def test_choices_that_are_refused(server: TestClient, options: Any, status: int, reason: str):
    response = post(server, PICTURE, **options)
    assert response.status_code == status and reason in message(response)


def test_a_reason_goes_with_the_column_that_is_missing():
    table = ScoreTable(("a", "b"), np.array([[1, np.nan], [2, 3]]), ("no b", None))
    assert columns(table, ("a",)).errors == (None, None)
    assert columns(table, ("b", "a")).errors == ("no b", None)


def test_names_of_pictures_come_back(server: TestClient):
    assert post(server, PICTURE, PICTURE, ids=("a", "b")).json()["ids"] == ["a", "b"]
    assert post(server, PICTURE).json()["ids"] is None


def test_a_request_id_goes_through_answers_errors_and_log(caplog: pytest.LogCaptureFixture):
    with TestClient(build_app([Leaky()])) as client, caplog.at_level(logging.ERROR):
        failed = post(client, PICTURE, headers={"X-Request-ID": "step-7"})
        assert failed.status_code == 500
        assert failed.headers["x-request-id"] == failed.json()["error"]["request_id"] == "step-7"
        assert "request step-7: " in caplog.text and "/srv/models/secret" in caplog.text
        for bad in ("a b", "x" * 200, "", "a\tb"):
            made = client.get("/health", headers={"X-Request-ID": bad}).headers["x-request-id"]
            assert made != bad and len(made) == 16
        assert client.get("/nowhere").json()["error"]["request_id"]
        with caplog.at_level(logging.INFO):
            post(client, headers={"X-Request-ID": "step-8"}, scorers=("hps",))
        assert "request step-8: 404 unknown_scorer: no scorer 'hps' here" in caplog.text


def test_errors_name_no_path_of_the_server(caplog: pytest.LogCaptureFixture):
    leaky = Leaky()
    with TestClient(build_app([leaky])) as client:
        failed = post(client, PICTURE, headers={"X-Request-ID": "step-8"})
        assert "scorer 'broken' failed: FileNotFoundError; " in message(failed)
        assert "request step-8" in message(failed) and "srv" not in failed.text
        until(lambda: client.get("/ready").json()["reason"] != "warming up")
        reason = client.get("/ready").json()["reason"]
        assert "srv" not in reason and reason.endswith("under request warm-up")
        assert "request warm-up: the warm-up score failed: " in caplog.text
        leaky.as_a_whole = False
        answer = post(client, PICTURE).json()
        assert answer["values"] == [[None]] and "srv" not in answer["errors"][0]
        assert "server's log" in answer["errors"][0]
    assert "words.txt" in caplog.text


def test_what_goes_wrong_unforeseen_is_answered_in_our_form(monkeypatch: pytest.MonkeyPatch):
    engine = LocalEngine([ChannelMeans()])
    client = TestClient(build_app(engine=engine))
    monkeypatch.setattr(engine, "check_room", lambda: [][0])
    answer = post(client, PICTURE)
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
    assert "list index" not in answer.text


def test_counters(server: TestClient):
    post(server, PICTURE, b"junk", prompts=("a", "b"))
    post(server, scorers=("nobody",))
    text = server.get("/metrics").text
    for line in (
        'reward_requests_total{route="/v1/score",status="200"} 1.0',
        'reward_requests_total{route="/v1/score",status="404"} 1.0',
        'reward_errors_total{kind="unknown_scorer"} 1.0',
        'reward_images_total{outcome="scored"} 1.0',
        'reward_images_total{outcome="missing"} 1.0',
        "reward_scoring_seconds_count 2.0",  # with the warm-up
        "reward_waiting_seconds_count 2.0",
        "reward_request_seconds_count 2.0",
        "reward_queue_jobs 0.0",
        "reward_held_bytes 0.0",
        "reward_ready 1.0",
    ):
        assert f"\n{line}\n" in text, line
    assert "process_resident_memory_bytes" in text
    kind = server.get("/metrics").headers["content-type"]
    assert kind.startswith("text/plain; version=0.0.4")  # what Prometheus goes by


def test_waiting_is_not_scoring():
    metrics = Metrics(lambda: 0, lambda: 0, lambda: 1)
    metrics.observe(1, 20)
    text = generate_latest(metrics.registry).decode()
    assert "reward_waiting_seconds_sum 1.0\n" in text and "reward_scoring_seconds_sum 20.0\n" in text


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("the model returned a score that is not finite", "the model returned a score that is not finite"),
        ("scorer 'a' failed: OSError: /srv/model", "scorer 'a' failed: OSError; the server's log"),
        (r"scorer 'a' failed: OSError: C:\model", "scorer 'a' failed: OSError; the server's log"),
        (
            "scorer 'a' failed: TypeError: <A object at 0x7f>",
            "scorer 'a' failed: TypeError; the server's log",
        ),
        ("/srv/model: not there", "the server's log"),
        ("x" * 200 + ": /srv/model", "the server's log"),
    ],
)
def test_what_clients_hear_of_an_error(said: str, heard: str):
    told = public(said, "step-9")
    assert told.startswith(heard) and (said == heard or ("srv" not in told and told.endswith(" step-9")))


def test_a_token_guards_the_counters_too():
    with TestClient(build_app([ChannelMeans()], token="secret")) as client:
        for path in ("/metrics", "/v1/scorers", "/nowhere", "/compute"):
            assert client.get(path).status_code == 401
        for path in ("/health", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert client.get("/openapi.json").json()["security"] == [{"token": []}]


def test_the_examples_of_the_openapi_document_run(server: TestClient):
    document = server.get("/openapi.json").json()
    assert {"/v1/score", "/health", "/ready", "/v1/scorers", "/metrics", "/compute"} <= set(document["paths"])
    operation = document["paths"]["/v1/score"]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "404", "408", "413", "500", "503"}
    content = operation["requestBody"]["content"]
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"request", "images"}
    examples = content["application/json"]["examples"]
    assert len(examples) == 2
    for example in examples.values():
        assert set(example["value"]) <= set(content["application/json"]["schema"]["properties"])
        answer = server.post("/v1/score", json=example["value"])
        assert answer.status_code == 200, answer.text
        fields = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
        assert set(answer.json()) == set(fields)
        assert answer.json()["values"][0][:2] == [200, 120]


def test_flow_factorys_format_has_the_same_limits(server: TestClient):
    body = {"prompt": ["abc"], "image": [base64.b64encode(to_png(plain(3, 4))).decode()]}
    assert server.post("/weights/red=0.5,letters=2/compute", json=body).json() == {"rewards": [7.5]}
    small = TestClient(build_app([PromptLength()], limits=Limits(max_bytes=50)))
    assert small.post("/compute", json=body).status_code == 413
    swells = b'{"image": [' + b"[]," * 200_000 + b"[]]}"
    refused = server.post("/weights/red/compute", content=swells)
    assert refused.status_code == 400 and "commas and brackets" in message(refused)


def test_a_server_says_which_model_it_has_and_not_where():
    specs = [{"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu"}, {"name": "pixels"}]
    engine = LocalEngine([PromptLength(), ChannelMeans()], specs=specs)
    answer = TestClient(build_app(engine=engine)).get("/v1/scorers")
    first, second = answer.json()["scorers"]
    assert first["model"] == CHECKPOINT.name and first["precision"] == "float32"
    assert len(first["revision"]) == 12 and second["model"] is None
    assert str(CHECKPOINT.parent) not in answer.text
