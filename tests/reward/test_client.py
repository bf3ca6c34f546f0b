"""The client against our application: the same tables as in this process, and the keys of its config."""

import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from reward_plugin.app import Limits, build_app
from reward_plugin.client import LocalRewards, RewardClient, build_rewards
from reward_plugin.errors import ConfigError, RequestRefused, ScorerFailed
from reward_plugin.session import part_size
from reward_plugin.types import ImageLike, Rewards, Scorer
from tests.reward.helpers import Broken, ChannelMeans, PromptLength, plain
from tests.reward.transports import InMemory


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


@pytest.mark.parametrize(
    ("images", "most", "servers", "sizes"),
    [
        (33, 32, 1, [17, 16]),
        (24, 32, 4, [6] * 4),
        (2, 32, 4, [1, 1]),
        (100, 32, 3, [25] * 4),
        (7, 1, 2, [1] * 7),
    ],
)
def test_a_batch_is_split_evenly_and_over_all_servers(images: int, most: int, servers: int, sizes: list[int]):
    size = part_size(images, most, servers)
    assert [min(size, images - start) for start in range(0, images, size)] == sizes


class Listening(InMemory):
    """Notes to whom requests go, and what is answered."""

    def __init__(self, app: TestClient) -> None:
        super().__init__(app)
        self.scored: list[tuple[str, int]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.method == "POST":
            self.scored.append((request.url.host, answer.status_code))
        return answer


def test_a_small_batch_has_something_for_every_server(channels: ChannelMeans):
    with TestClient(build_app([channels])) as app:
        listening = Listening(app)
        with RewardClient(["http://a", "http://b", "http://c"], transport=listening) as client:
            client.score([plain(i, 0) for i in range(6)])
    assert sorted(listening.scored) == [("a", 200), ("b", 200), ("c", 200)]


def test_a_batch_over_the_servers_limits_is_split_before_it_is_refused(channels: ChannelMeans):
    limits = Limits(max_items=5, max_bytes=20_000)
    noise = np.random.default_rng(0).integers(0, 256, (3, 70, 70, 3), np.uint8)  # 14 kB each, as PNG
    with TestClient(build_app([channels, PromptLength()], limits=limits)) as app:
        listening = Listening(app)
        with RewardClient("http://server", transport=listening) as client:
            prompts = ["x" * (i + 1) for i in range(12)]
            table = client.score([plain(i, 0) for i in range(12)], prompts)
            assert table.values[:, [0, 2]].tolist() == [[i, i + 1] for i in range(12)]
            table = client.score(list(noise), ["a", "bb", "ccc"])
            np.testing.assert_allclose(table.values[:, :2], noise.mean(axis=(1, 2))[:, :2])
            assert table.values[:, 2].tolist() == [1, 2, 3]
            assert {status for _, status in listening.scored} == {200}
            large = client.score([plain(1, 2), noise.reshape(210, 70, 3)], ["a", "b"])
            assert large.values[0].tolist() == [1, 2, 1] and np.isnan(large.values[1]).all()
            assert "HTTP 413" in (large.errors[1] or "")  # a bad picture, not a bad batch
    assert max(channels.batches) <= 5


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "either url"),
        ({"url": "http://x", "scorers": [{"name": "pixels"}]}, "either url"),
        ({"url": "http://x", "max_wait": 3}, "max_wait is called max_outage now"),
        ({"ulr": "http://x"}, "unknown key 'ulr'; known are url"),
        ({"url": "http://x", "batch_size": 0}, "batch_size 0: it must be at least 1"),
        ({"url": "http://x", "timeout": 0}, "timeout 0"),
        ({"url": "http://x", "max_outage": float("nan")}, "max_outage nan"),
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
    with build_rewards({"url": ["http://a:1", "http://b:2"], "max_outage": 3}) as client:
        assert isinstance(client, RewardClient)
