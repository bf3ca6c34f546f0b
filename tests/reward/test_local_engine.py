"""The engine of one process: what is scored together, what is dropped, what a request may cost others."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest

from reward_plugin import local_engine
from reward_plugin.errors import ConfigError, ScorerFailed, TooLarge
from reward_plugin.images import to_npy, to_pixels, to_png
from reward_plugin.local_engine import FAILURES, LocalEngine
from reward_plugin.queueing import Full, ScoreJob
from reward_plugin.server import decoding
from reward_plugin.types import ImageLike, ScoreTable
from tests.reward.helpers import Broken, ChannelMeans, PromptLength, plain


class Picky(ChannelMeans):
    """Fails as a whole when one of its pictures is black."""

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        table = super().score(images, prompts)
        if (table.values == 0).all(axis=1).any():
            raise RuntimeError("a black picture")
        return table


class TakesArrays(ChannelMeans):
    """Notes what it gets."""

    takes_arrays = True

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        self.kinds = [type(image) for image in images]
        return super().score([np.asarray(image) for image in images], prompts)


def job(*colours: int, scorers: tuple[str, ...] = ("channels",), **options: Any) -> ScoreJob:
    return ScoreJob([to_npy(plain(red, 1)) for red in colours], None, scorers, **options)


async def several(engine: LocalEngine, channels: "Held", *jobs: ScoreJob) -> list[Any]:
    """Outcomes of jobs that all wait while another one is scored."""
    channels.go.clear()
    first = asyncio.ensure_future(engine.run(job(1)))
    while not channels.waiting:
        await asyncio.sleep(0.01)
    others = [asyncio.ensure_future(engine.run(one)) for one in jobs]
    await asyncio.sleep(0.2)
    channels.go.set()
    await first
    return await asyncio.gather(*others, return_exceptions=True)


class Held(Picky):
    """Tells a test that it has begun."""

    waiting = False

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        self.waiting = True
        return super().score(images, prompts)


def reds(tables: Sequence[ScoreTable]) -> list[list[float]]:
    return [table.column("red").tolist() for table in tables]


def test_waiting_requests_are_scored_together_up_to_a_size_and_get_their_own_rows():
    channels = Held()
    engine = LocalEngine([channels, PromptLength()], coalesce=4)
    other = ScoreJob([to_npy(plain(9, 9))], ("four",), ("letters", "channels"))
    jobs = [job(2, 3), job(4), job(5), job(6), job(7, 8), other]
    tables = asyncio.run(several(engine, channels, *jobs))
    engine.close()
    assert reds(tables) == [[2, 3], [4], [5], [6], [7, 8], [9]]
    assert tables[-1].dimensions == ("letters", "red", "green")
    # the second job is decoded while the first is scored; those after it are put together
    assert sum(channels.batches) == 9 and max(channels.batches) in (3, 4) and len(channels.batches) < 7


def test_alone_by_default():
    channels = Held()
    engine = LocalEngine([channels])
    asyncio.run(several(engine, channels, job(2), job(3)))
    engine.close()
    assert channels.batches == [1, 1, 1]


def test_only_requests_that_ask_for_the_same_are_scored_together():
    channels = Held()
    engine = LocalEngine([channels, PromptLength()], coalesce=100)
    both = ("channels", "letters")
    filler = job(2)  # is decoded alone, while the first one is scored
    first = ScoreJob([b"junk", to_npy(plain(3, 1))], ("a", "bb"), both)
    second = ScoreJob([to_npy(plain(4, 1)), b"junk"], ("ccc", "d"), both)
    turned = ScoreJob([to_npy(plain(5, 1))], ("eeee",), both, exif="apply")
    small = ScoreJob([to_npy(plain(6, 1))], ("f",), both, max_pixels=5)
    silent = ScoreJob([to_npy(plain(7, 1))], None, ("channels",))
    other = ScoreJob([to_npy(plain(8, 1))], None, ("channels", "letters"))
    tables = asyncio.run(several(engine, channels, filler, first, second, turned, small, silent, other))
    engine.close()
    np.testing.assert_array_equal(tables[1].values, [[np.nan] * 3, [3, 1, 2]])
    np.testing.assert_array_equal(tables[2].values, [[4, 1, 3], [np.nan] * 3])
    assert tables[3].values.tolist() == [[5, 1, 4]] and tables[5].values.tolist() == [[7, 1]]
    assert "more than 5 pixels" in str(tables[4].errors[0])
    assert channels.batches == [1, 1, 2, 1, 1, 1]  # first and second; the small one has no picture left


def test_a_request_that_makes_the_scorer_fail_costs_the_others_nothing():
    channels = Held()
    engine = LocalEngine([channels], coalesce=100)
    black = ScoreJob([to_npy(plain(0, 0))], None, ("channels",))
    outcomes = asyncio.run(several(engine, channels, job(2), job(3), black, job(4)))
    engine.close()
    assert isinstance(outcomes[2], ScorerFailed)
    assert reds([outcomes[i] for i in (0, 1, 3)]) == [[2], [3], [4]]


def test_one_job_too_many_is_told_to_come_back():
    channels = Held()
    engine = LocalEngine([channels], max_waiting=1)
    outcomes = asyncio.run(several(engine, channels, job(2), job(3)))
    engine.close()
    assert isinstance(outcomes[1], Full) and outcomes[1].retry_after >= 1
    assert reds(outcomes[:1]) == [[2]] and engine.jobs == 0
    slow = LocalEngine([channels], max_waiting=0)
    slow._seconds = 10_000.0  # of one batch
    for max_waiting, retry_after in ((0, 1), (100, local_engine.LONGEST_RETRY)):
        slow.max_waiting, slow.jobs = max_waiting, max_waiting + 1
        with pytest.raises(Full) as full:
            slow.check_room()
        assert full.value.retry_after == retry_after


def test_a_cancelled_job_is_not_scored_and_holds_nothing():
    async def story() -> None:
        channels.go.clear()
        scored = asyncio.ensure_future(engine.run(job(1)))
        while not channels.waiting:
            await asyncio.sleep(0.01)
        waiting = [asyncio.ensure_future(engine.run(job(2, 3))) for _ in range(5)]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert engine.jobs == 1 and not engine._waiting
        scored.cancel()
        await asyncio.sleep(0.1)
        assert engine.jobs == 1  # its pictures are in use
        channels.go.set()
        await asyncio.wait([scored])
        assert engine.jobs == 0 and reds([await engine.run(job(4))]) == [[4]]

    channels = Held()
    engine = LocalEngine([channels])
    asyncio.run(story())
    engine.close()
    assert channels.batches == [1, 1]


def test_pictures_together_have_a_limit_and_bombs_are_not_decoded():
    def png(side: int) -> bytes:
        return to_png(PIL.Image.new("RGB", (side, side)))

    engine = LocalEngine([Held()], max_total_pixels=5000)
    with pytest.raises(TooLarge, match="more than 5000 pixels: send fewer"):
        asyncio.run(engine.run(ScoreJob([png(40)] * 4, None, ("channels",))))
    with pytest.raises(TooLarge, match="more than 5000 pixels"):
        asyncio.run(engine.run(ScoreJob([to_npy(plain(1, 1, (40, 40)))] * 4, None, ("channels",))))
    bomb = ScoreJob([png(30), png(60)], None, ("channels",), max_pixels=1000)
    scorer = TakesArrays()
    engine = LocalEngine([scorer], max_total_pixels=5000)
    table = asyncio.run(engine.run(bomb))
    assert table.errors[0] is None and "60x60 is more than 1000 pixels" in str(table.errors[1])


def test_pictures_beyond_the_limit_are_not_decoded_any_more(monkeypatch: pytest.MonkeyPatch):
    decoded = []

    def note(image: bytes, *args: Any) -> Any:
        decoded.append(image)
        return to_pixels(image, *args)

    monkeypatch.setattr(decoding, "to_pixels", note)
    engine = LocalEngine([Held()], max_total_pixels=5000, threads=1)
    with pytest.raises(TooLarge):
        asyncio.run(engine.run(ScoreJob([to_png(plain(1, 1, (40, 40)))] * 20, None, ("channels",))))
    engine.close()
    assert len(decoded) == 4


def test_whatever_a_decoder_raises_costs_one_picture(monkeypatch: pytest.MonkeyPatch):
    def fails(image: bytes, *args: Any) -> Any:
        if image == b"odd":
            raise RuntimeError("not foreseen, in /usr/lib")
        return to_pixels(image, *args)

    monkeypatch.setattr(decoding, "to_pixels", fails)
    engine = LocalEngine([ChannelMeans()])
    table = asyncio.run(engine.run(ScoreJob([b"odd", to_png(plain(2, 1))], None, ("channels",))))
    engine.close()
    assert table.errors == ("cannot be decoded: RuntimeError", None)
    np.testing.assert_array_equal(table.values, [[np.nan] * 2, [2, 1]])


def test_memory_does_not_grow_with_the_queue(monkeypatch: pytest.MonkeyPatch):
    channels, decoded = Held(), []

    def note(images: Sequence[bytes], *args: Any, **options: Any) -> Any:
        decoded.append(len(channels.batches))  # jobs that are done by now
        return decoding.decode(images, *args, **options)

    monkeypatch.setattr(local_engine, "decode", note)
    engine = LocalEngine([channels])
    asyncio.run(several(engine, channels, *[job(2)] * 5))
    engine.close()
    assert all(i - done <= 2 for i, done in enumerate(decoded, 1))


def test_waiting_and_scoring_are_timed():
    channels, times = Held(), []
    engine = LocalEngine([channels])
    engine.observe = lambda waited, scored: times.append((waited, scored))
    asyncio.run(several(engine, channels, job(2)))
    engine.close()
    (_, scored), (waited, _) = times
    assert scored > 0.2 and waited > 0.2  # as long as the first one was held back


def test_arrays_are_handed_over_as_they_are_to_scorers_that_take_them():
    arrays, pictures = TakesArrays(), PromptLength()
    engine = LocalEngine([arrays, pictures])
    images = [to_npy(plain(3, 4)), to_png(plain(5, 6)), b"junk"]
    table = asyncio.run(engine.run(ScoreJob(images, ("a", "bb", "c"), ("channels", "letters"))))
    engine.close()
    assert arrays.kinds == [np.ndarray, PIL.Image.Image]
    np.testing.assert_array_equal(table.values, [[3, 4, 1], [5, 6, 2], [np.nan] * 3])


def test_an_engine_that_always_fails_says_so():
    engine = LocalEngine([Broken()])
    for _ in range(FAILURES):
        assert engine.trouble() is None
        with pytest.raises(ScorerFailed, match="out of memory"):
            asyncio.run(engine.run(job(1, scorers=("broken",))))
    assert "out of memory" in str(engine.trouble())
    engine.close()
    assert engine.trouble() == "the server is stopping"
    with pytest.raises(Full):
        asyncio.run(engine.run(job(1, scorers=("broken",))))


class Raises(ChannelMeans):
    """Raises what it is told to."""

    error: BaseException | None = None

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        if self.error is not None:
            raise self.error
        return super().score(images, prompts)


ERRORS = (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), StopIteration())


@pytest.mark.parametrize("error", [*ERRORS, MemoryError()], ids=repr)
def test_whatever_a_scorer_raises_ends_one_request_and_nothing_else(error: BaseException):
    channels = Raises()
    engine = LocalEngine([channels])

    async def story() -> None:
        channels.error = error
        with pytest.raises(ScorerFailed, match=type(error).__name__):
            await engine.run(job(1))
        channels.error = None
        assert reds([await engine.run(job(2))]) == [[2]]

    asyncio.run(story())
    engine.close()


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_whatever_a_decoder_raises_ends_one_request_and_nothing_else(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
):
    engine = LocalEngine([ChannelMeans()])

    def fails(*args: Any, **options: Any) -> Any:
        raise error

    async def story() -> None:
        with monkeypatch.context() as patch, pytest.raises(ScorerFailed, match=type(error).__name__):
            patch.setattr(local_engine, "decode", fails)
            await asyncio.wait_for(engine.run(job(1)), 30)
        assert reds([await engine.run(job(2))]) == [[2]]

    asyncio.run(story())
    engine.close()


def test_a_scorer_that_hangs_is_trouble_and_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch):
    channels = Held()
    engine = LocalEngine([channels])

    async def story() -> None:
        channels.go.clear()
        task = asyncio.ensure_future(engine.run(job(1)))
        while not channels.waiting:
            await asyncio.sleep(0.01)
        assert engine.trouble() is None
        monkeypatch.setattr(local_engine, "STALLED", 0.01)
        await asyncio.sleep(0.05)
        assert "has been scored for" in str(engine.trouble())
        channels.go.set()
        await task
        while engine.trouble():
            await asyncio.sleep(0.01)
        channels.go.clear()
        hung = asyncio.ensure_future(engine.run(job(1)))
        await asyncio.sleep(0.1)
        monkeypatch.setattr(local_engine, "LONGEST_CLOSE", 0.2)
        start = time.monotonic()
        await asyncio.to_thread(engine.close)
        assert time.monotonic() - start < 20 and not hung.done()
        channels.go.set()
        await hung

    asyncio.run(story())


def test_scorers_need_different_names():
    other = ChannelMeans()
    other.dimensions = ("blue", "yellow")
    with pytest.raises(ConfigError, match="same name"):
        LocalEngine([ChannelMeans(), other])
