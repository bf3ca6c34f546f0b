"""Flow-Factory's two ways to a score: its HTTP format on our server, and the class that it loads by path."""

import base64
import pickle
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

from reward_plugin.adapters.flow_factory import router
from reward_plugin.app import build_app
from reward_plugin.client import LocalRewards
from reward_plugin.errors import ConfigError, MissingScore
from reward_plugin.images import to_png
from reward_plugin.scorers.pixels import PixelScorer
from reward_plugin.scoring import score_all
from reward_plugin.types import Scorer, ScoreTable
from tests.reward.helpers import ChannelMeans, PromptLength, plain

WEIGHTS = "red=0.5,letters=2"


class Served:
    """The routes on an application of their own, with what they asked to be scored."""

    def __init__(self, scorers: Sequence[Scorer], **limits: Any) -> None:
        self.asked: list[tuple[str, ...] | None] = []
        by_name = {scorer.name: scorer for scorer in scorers}

        async def score(
            images: Sequence[bytes], prompts: Sequence[str] | None, names: Sequence[str] | None
        ) -> ScoreTable:
            self.asked.append(None if names is None else tuple(names))
            return score_all([by_name[name] for name in names or by_name], images, prompts)

        app = FastAPI()
        owners = {name: scorer.name for scorer in scorers for name in scorer.dimensions}
        app.include_router(router(score, owners, **limits))
        self.client = TestClient(app)

    def post(self, path: str, images: Sequence[bytes], prompts: Any = None, **more: Any) -> Any:
        """What Flow-Factory's client sends: its keys, base64, nothing else."""
        body = {
            "prompt": prompts,
            "image": [base64.b64encode(image).decode() for image in images],
            "video": None,
            "condition_images": None,
            "condition_videos": None,
        }
        return self.client.post(path, json=body | more)


@pytest.fixture
def served() -> Served:
    return Served([ChannelMeans(), PromptLength()], max_bytes=4000, max_items=4)


def test_the_address_weighs_the_dimensions(served: Served):
    images = [to_png(plain(10, 2)), to_png(plain(30, 4))]
    answer = served.post(f"/weights/{WEIGHTS}/compute", images, ["a", "bbb"])
    assert answer.status_code == 200
    assert answer.json() == {"rewards": [10 * 0.5 + 1 * 2, 30 * 0.5 + 3 * 2]}


def test_a_bare_name_is_one_dimension_and_only_its_scorer_runs(served: Served):
    answer = served.post("/weights/green/compute", [to_png(plain(10, 2))], ["a"])
    assert answer.json() == {"rewards": [2.0]}
    assert served.asked == [("channels",)]


def test_compute_without_weights_serves_a_single_dimension():
    single = Served([PromptLength()])
    assert single.post("/compute", [to_png(plain(0, 0))], ["four"]).json() == {"rewards": [4.0]}
    several = Served([ChannelMeans()]).post("/compute", [to_png(plain(0, 0))], ["four"])
    assert several.status_code == 200 and "weights are missing" in several.json()["error"]


def test_a_missing_score_is_an_error_in_words_and_no_reward(served: Served):
    """That trainer raises the text of `error` at once, but only from a response with status 200."""
    answer = served.post("/weights/red/compute", [to_png(plain(10, 2)), b"junk"], ["a", "b"])
    assert answer.status_code == 200 and "rewards" not in answer.json()
    assert "1 of 2 pictures" in answer.json()["error"] and "picture 1: " in answer.json()["error"]
    assert "not one of PNG" in answer.json()["error"]


def test_a_missing_score_of_a_dimension_without_weight_does_no_harm(served: Served):
    assert served.post("/weights/red=1,letters=0/compute", [to_png(plain(9, 2))], [""]).json() == {
        "rewards": [9.0]
    }


def test_it_can_ask_beforehand_whether_the_weights_can_be_served(served: Served):
    assert served.client.get(f"/weights/{WEIGHTS}/health").json() == {"status": "ok"}
    for wrong in ("blue", "red=much", "red,red", "red=0", "red=nan", "red=1e39", "="):
        answer = served.client.get(f"/weights/{wrong}/health")
        assert answer.status_code == 404, wrong
        assert "error" in served.post(f"/weights/{wrong}/compute", [to_png(plain(0, 0))]).json()
    assert not served.asked


def test_pickles_are_refused_in_words_that_other_trainers_show(served: Served):
    payload = pickle.dumps({"images": [to_png(plain(0, 0))], "prompts": ["a"], "metadata": {}})
    for path in ("/", "/compute", "/weights/red/compute"):
        answer = served.client.post(path, content=payload)
        assert answer.status_code == 415
        assert "reads no pickles" in answer.json()["error"]["message"]
        with pytest.raises(pickle.UnpicklingError):  # what verl-omni tries first, before it shows the text
            pickle.loads(answer.content)
    assert not served.asked


def test_requests_that_are_refused(served: Served):
    picture = base64.b64encode(to_png(plain(0, 0))).decode()
    bodies = {
        b"{": "not valid JSON",
        b"[1]": "must be an object",
        b"{}": "image is missing",
        b'{"image": null, "video": [["AA"]]}': "scores pictures",
        b'{"image": ["AA"], "condition_videos": [["AA"]]}': "scores pictures",
        b'{"image": "AA"}': "list of texts",
        b'{"image": ["?"]}': "not base64",
        b'{"image": ["AA"], "prompt": ["\\ud800"]}': "surrogate",
        f'{{"image": ["{picture}"], "prompt": ["a", "b"]}}'.encode(): "2 prompts for 1 images",
    }
    for body, reason in bodies.items():
        answer = served.client.post("/weights/red/compute", content=body)
        assert answer.status_code == 400 and reason in answer.json()["error"]["message"], body
    large: list[Any] = [served.client.post("/weights/red/compute", content=b" " * 4001)]
    large.append(served.post("/weights/red/compute", [b"x"] * 5))
    assert [answer.status_code for answer in large] == [413, 413]
    assert not served.asked


def test_the_token_may_come_as_a_password_on_these_routes_only():
    """That trainer's client sends no header of its own, but the password of its machine's .netrc."""
    body = {"image": [base64.b64encode(to_png(plain(9, 2))).decode()], "prompt": ["a"]}
    with TestClient(build_app([ChannelMeans()], token="s:3")) as app:
        for auth, status in (
            (("any", "s:3"), 200),
            (("", "s:3"), 200),
            (("s", "3"), 401),
            (("any", "s"), 401),
        ):
            assert app.post("/weights/red/compute", json=body, auth=auth).status_code == status, auth
            assert app.get("/weights/red/health", auth=auth).status_code == status, auth
        assert app.post("/weights/red/compute", json=body, auth=("any", "s:3")).json() == {"rewards": [9.0]}
        for path in ("/v1/scorers", "/metrics"):
            assert app.get(path, auth=("any", "s:3")).status_code == 401
        for wrong in ("Basic ?", "Basic", "basic " + base64.b64encode(b"\xff:\xff").decode(), "Bearer 3", ""):
            headers = {"Authorization": wrong}
            assert app.get("/weights/red/health", headers=headers).status_code == 401, wrong
        assert app.get("/weights/red/health", headers={"Authorization": "Bearer s:3"}).status_code == 200


@dataclass
class Arguments:
    """Flow-Factory's reward arguments as a reward model sees them: unknown keys lie in `extra_kwargs`."""

    extra_kwargs: dict[str, Any]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@pytest.fixture
def reward_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The class, on stand-ins for the two names that it takes from Flow-Factory (not on any registry)."""

    class PointwiseRewardModel:
        def __init__(self, config: Any, accelerator: Any) -> None:
            self.config, self.device = config, config.device

    @dataclass
    class RewardModelOutput:
        rewards: torch.Tensor

    package, rewards = types.ModuleType("flow_factory"), types.ModuleType("flow_factory.rewards")
    vars(rewards).update(PointwiseRewardModel=PointwiseRewardModel, RewardModelOutput=RewardModelOutput)
    monkeypatch.setitem(sys.modules, "flow_factory", package)
    monkeypatch.setitem(sys.modules, "flow_factory.rewards", rewards)
    name = "reward_plugin.adapters.flow_factory_model"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield __import__(name, fromlist=["PerceptualReward"]).PerceptualReward
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_class_scores_in_process(reward_model: type):
    options = {"scorers": [{"name": "pixels"}], "weights": {"saturation": 2.0, "sharpness": 1.0}}
    model = reward_model(Arguments(options), None)
    pictures = [PIL.Image.fromarray(plain(200, 30)), PIL.Image.fromarray(plain(0, 90))]
    output = model(prompt=["a", "b"], image=pictures)
    expected = LocalRewards([PixelScorer()]).score(pictures).values @ np.array([0, 2, 1, 0], np.float32)
    assert output.rewards.dtype == torch.float32 and output.rewards.tolist() == expected.tolist()


def test_the_class_raises_where_a_score_is_missing(reward_model: type):
    model = reward_model(Arguments({"scorers": [{"name": "pixels"}], "weights": {"saturation": 1}}), None)
    with pytest.raises(MissingScore, match=r"1 of 2 pictures .* picture 1: .*mode I;16"):
        model(prompt=["a", "b"], image=[PIL.Image.new("RGB", (8, 8)), PIL.Image.new("I;16", (8, 8))])
    with pytest.raises(ConfigError, match="no pictures came"):
        model(prompt=["a"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scorers": [{"name": "pixels"}], "weights": {"iaa": 1.0}}, "unknown dimension 'iaa'"),
        ({"scorers": [{"name": "pixels"}]}, "weights are missing"),
        ({"scorers": [{"name": "pixels"}], "wieghts": {}}, "unknown key 'wieghts'"),
        ({}, "give either url"),
    ],
)
def test_a_wrong_config_is_known_before_anything_is_sampled(
    reward_model: type, options: dict[str, Any], reason: str
):
    with pytest.raises(ConfigError, match=reason):
        reward_model(Arguments(options), None)
