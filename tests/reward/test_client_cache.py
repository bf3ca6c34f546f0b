"""Equal pictures are scored once, and a score is only reused where it would be the same."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import PIL.Image
import pytest
import torch
from starlette.testclient import TestClient

from reward_plugin.app import build_app
from reward_plugin.cache import ScoreCache
from reward_plugin.client import RewardClient
from reward_plugin.encoding import CHUNK, Body, digest, encode
from reward_plugin.errors import ScorerFailed
from reward_plugin.images import to_png
from reward_plugin.types import ImageLike
from reward_plugin.wire import decode_request
from tests.reward.helpers import ChannelMeans, PromptLength, plain
from tests.reward.transports import InMemory


@pytest.fixture
def channels() -> ChannelMeans:
    return ChannelMeans()


@pytest.fixture
def app(channels: ChannelMeans) -> Iterator[TestClient]:
    with TestClient(build_app([channels, PromptLength()])) as app:
        while not app.get("/ready").json()["ready"]:
            pass
        channels.batches.clear()
        yield app


def test_equal_pictures_with_equal_prompts_are_scored_once(app: TestClient, channels: ChannelMeans):
    with RewardClient("http://server", transport=InMemory(app)) as client:
        twice = [plain(1, 2), plain(3, 4), plain(1, 2), plain(1, 2)]
        first = client.score(twice, ["a", "a", "a", "bb"])
        assert channels.batches == [3]  # the third is the first
        again = client.score([PIL.Image.fromarray(image) for image in twice], ["a", "a", "a", "bb"])
        assert channels.batches == [3]
        np.testing.assert_array_equal(first.values, [[1, 2, 1], [3, 4, 1], [1, 2, 1], [1, 2, 2]])
        np.testing.assert_array_equal(first.values, again.values)
        again.values[:] = 0  # what a caller does to its table is its own affair
        np.testing.assert_array_equal(client.score(twice, ["a", "a", "a", "bb"]).values, first.values)
        assert client.score([plain(1, 2)], ["ccc"]).values.tolist() == [[1, 2, 3]]
        assert channels.batches == [3, 1]


def test_a_picture_that_is_being_scored_is_waited_for(app: TestClient, channels: ChannelMeans):
    with RewardClient("http://server", batch_size=1, transport=InMemory(app)) as client:
        channels.go.clear()
        futures = [client.submit([plain(1, 2)], ["a"]) for _ in range(3)]
        futures.append(client.submit([plain(1, 2)] * 4, ["a"] * 4))
        channels.go.set()
        assert [future.result(30).values[-1].tolist() for future in futures] == [[1, 2, 1]] * 4
    assert channels.batches == [1]


def test_failed_scores_are_tried_again(app: TestClient, channels: ChannelMeans):
    with RewardClient("http://server", transport=InMemory(app)) as client:
        for number in (1, 2):
            table = client.score([plain(1, 2)], [""])
            assert np.isnan(table.values[0, 2]) and table.errors == ("an empty prompt",)
            assert len(channels.batches) == number
        assert client._session.cache is not None and len(client._session.cache) == 0


def test_no_cache_scores_every_picture(app: TestClient, channels: ChannelMeans):
    with RewardClient("http://server", cache_items=0, transport=InMemory(app)) as client:
        client.score([plain(1, 2)] * 3, ["a"] * 3)
    assert channels.batches == [3]


def test_the_oldest_go_first_when_the_cache_is_full():
    cache = ScoreCache(2)
    row = (np.zeros(1, np.float32), None)
    for key in (b"a", b"b"):
        assert cache.claim(key) is None
        cache.settle(key, row)
    assert cache.claim(b"a") is row  # used again, so b is the oldest
    assert cache.claim(b"c") is None
    cache.settle(b"c", row)
    assert (
        cache.claim(b"a") is row
        and cache.claim(b"c") is row
        and cache.claim(b"b") is None
        and len(cache) == 2
    )


def test_whoever_waits_for_one_that_fails_tries_itself():
    cache = ScoreCache(2)
    assert cache.claim(b"a") is None
    waiting = cache.claim(b"a")
    assert isinstance(waiting, Future)
    cache.give_back([b"a"])
    assert waiting.result(0) is None and cache.claim(b"a") is None


def test_a_failing_owner_does_not_fail_the_others():
    """One call has the picture, two wait for it; the scorer fails for the first and is well again."""
    channels, reached = ChannelMeans(), threading.Event()

    class FailsOnce(ChannelMeans):
        def score(self, images, prompts=None):
            self.batches.append(len(images))
            if len(self.batches) == 2:  # the first is the warm-up
                reached.set()
                assert self.go.wait(30)
                raise RuntimeError("out of memory")
            return channels.score(images, prompts)

    scorer = FailsOnce()
    with TestClient(build_app([scorer])) as app:
        while not app.get("/ready").json()["ready"]:
            pass
        scorer.go.clear()
        with RewardClient("http://server", transport=InMemory(app)) as client:
            first = client.submit([plain(1, 2)])
            assert reached.wait(30)
            others = [client.submit([plain(1, 2)]) for _ in range(2)]
            scorer.go.set()
            with pytest.raises(ScorerFailed, match="out of memory"):
                first.result(30)
            assert [other.result(30).values.tolist() for other in others] == [[[1, 2]]] * 2
    assert scorer.batches == [1, 1, 1]


def test_the_digest_tells_apart_what_scores_differently():
    image = plain(1, 2, (4, 6))
    same: list[ImageLike] = [image, np.asfortranarray(image), PIL.Image.fromarray(image)]
    same.append(torch.from_numpy(image).permute(2, 0, 1))
    assert len({digest(encode(one, raw=True), "a", b"x") for one in same}) == 1
    other = [
        digest(encode(image.reshape(6, 4, 3), raw=True), "a", b"x"),
        digest(encode(plain(1, 3, (4, 6)), raw=True), "a", b"x"),
        digest(encode(to_png(image), raw=True), "a", b"x"),
        digest(encode(image, raw=True), "ab", b"x"),
        digest(encode(image, raw=True), "b", b"x"),
        digest(encode(image, raw=True), None, b"x=a"),
        digest(encode(image, raw=True), "", b"x"),
        digest(encode(image, raw=True), None, b"x"),
        digest(encode(image, raw=True), "a", b"y"),
        digest(encode(image, raw=True), "", b"xa"),
    ]
    assert len({*other, digest(encode(image, raw=True), "a", b"x")}) == len(other) + 1


@pytest.mark.parametrize("raw", [True, False])
def test_a_body_holds_every_picture_whole_and_may_be_sent_again(raw: bool):
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    images: list[ImageLike] = [noise, to_png(plain(1, 2)), noise[:, ::2]]
    body = Body([encode(image, raw) for image in images], ["a", "ä\n\r\n--", ""])
    joined = b"".join(body.chunks())
    assert joined == b"".join(body.chunks()) and len(joined) == int(body.headers["Content-Length"])
    assert max(map(len, body.chunks())) <= CHUNK
    request = decode_request(body.headers["Content-Type"], joined)
    assert request.prompts == ("a", "ä\n\r\n--", "")
    assert len(request.images) == 3 and bytes(request.images[1]) == images[1]
    from reward_plugin.images import to_array

    np.testing.assert_array_equal(to_array(bytes(request.images[0])), noise)
    np.testing.assert_array_equal(to_array(bytes(request.images[2])), noise[:, ::2])


def test_an_array_is_sent_from_the_callers_memory():
    image = np.zeros((64, 64, 3), np.uint8)
    assert np.shares_memory(np.frombuffer(encode(image, raw=True).content, np.uint8), image)
