"""Rewards in the forms of verl-omni, the published flow_grpo and notebooks; what a missing score becomes."""

import asyncio
import gc
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from reward_plugin.adapters import common, flow_grpo, notebook, verl_omni
from reward_plugin.client import LocalRewards
from reward_plugin.errors import BadImage, ConfigError, MissingScore, ScorerFailed
from reward_plugin.images import to_png
from reward_plugin.types import ImageLike
from tests.reward.helpers import Broken, ChannelMeans, PromptLength, plain

WEIGHTS = {"red": 0.5, "letters": 2.0}
PIXELS = {"scorers": [{"name": "pixels"}]}


def local() -> LocalRewards:
    return LocalRewards([ChannelMeans(), PromptLength()])


def chw(red: int, green: int) -> torch.Tensor:
    """uint8 [3, H, W], as verl-omni passes pictures."""
    return torch.from_numpy(plain(red, green)).permute(2, 0, 1)


# --- what they share


def test_one_config_is_opened_once():
    assert common.open_rewards(PIXELS) is common.open_rewards({"scorers": ({"name": "pixels"},)})
    rewards = local()
    assert common.open_rewards(rewards) is rewards


@pytest.mark.parametrize(
    ("source", "reason"),
    [("127.0.0.1:8100", "no address"), (3, "does not score"), ({"adress": "http://x"}, "unknown key")],
)
def test_a_source_that_cannot_score_is_refused(source: Any, reason: str):
    with pytest.raises(ConfigError, match=reason):
        common.open_rewards(source)


def test_weights_may_be_left_out_only_where_there_is_one_dimension():
    assert common.settle_weights(None, ["letters"]) == {"letters": 1.0}
    with pytest.raises(ConfigError, match="how much each of red, green counts"):
        common.settle_weights(None, ["red", "green"])


def test_the_error_lists_the_first_reasons_and_counts_the_rest():
    with pytest.raises(MissingScore) as error:
        flow_grpo.score_function(local(), {"letters": 1})([plain(0, 0)] * 8, [""] * 8, {})
    assert "8 of 8 pictures" in str(error.value) and "picture 4: an empty prompt; and 3 more" in str(
        error.value
    )


# --- verl-omni


def call(function: Any, image: torch.Tensor, prompt: str | None, rewards: Any, **options: Any) -> Any:
    """As its reward manager calls: by keyword, with the config's extra keys added."""
    options = {"rewards": rewards, "weights": WEIGHTS} | options
    return function(data_source="s", solution_image=image, ground_truth=prompt, extra_info={}, **options)


def test_verl_omni_gets_the_weighted_score_and_its_parts():
    expected = {"score": 5 + 6, "red": 10, "letters": 3}
    assert call(verl_omni.compute_score, chw(10, 2), "abc", local()) == expected
    added = dict.fromkeys(
        ("reward_router_address", "reward_model_tokenizer", "model_name", "sampling_params", "device")
    )
    assert call(verl_omni.compute_score, chw(10, 2)[None], "abc", local(), **added) == expected
    # its manager looks at the function, not at what it returns, to tell the two forms apart
    assert inspect.iscoroutinefunction(verl_omni.compute_score_async)
    assert asyncio.run(call(verl_omni.compute_score_async, chw(10, 2), "abc", local())) == expected


def test_calls_at_the_same_time_become_one_request_and_each_gets_its_own_score():
    scorer = ChannelMeans()
    rewards = LocalRewards([scorer])

    async def many() -> list[dict[str, float]]:
        calls = (
            call(verl_omni.compute_score_async, chw(red, 1), "", rewards, weights={"red": 1.0})
            for red in range(40)
        )
        return list(await asyncio.gather(*calls))

    assert [result["score"] for result in asyncio.run(many())] == list(range(40))
    assert len(scorer.batches) < 20 and sum(scorer.batches) == 40
    assert [result["score"] for result in asyncio.run(many())] == list(range(40))  # in another event loop


def test_calls_are_collected_again_after_each_request():
    rewards = LocalRewards([scorer := ChannelMeans()])
    told: list[dict[str, Any]] = []

    async def rounds() -> list[float]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        found = []
        for first in (0, 10):
            calls = [
                call(verl_omni.compute_score_async, chw(first + i, 1), "", rewards, weights={"red": 1.0})
                for i in range(3)
            ]
            found += [result["score"] for result in await asyncio.wait_for(asyncio.gather(*calls), 60)]
        await asyncio.sleep(2 * verl_omni.WINDOW)
        return found

    assert asyncio.run(rounds()) == [0, 1, 2, 10, 11, 12]
    gc.collect()  # a task whose failure nobody has seen says so when it goes
    assert sum(scorer.batches) == 6 and not told


def test_verl_omni_never_gets_a_number_for_a_missing_score():
    with pytest.raises(MissingScore, match="an empty prompt"):
        call(verl_omni.compute_score, chw(1, 2), "", local())

    async def good_and_bad() -> list[Any]:
        calls = (call(verl_omni.compute_score_async, chw(10, 2), text, local_) for text in ("abc", None))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    local_ = local()
    good, bad = asyncio.run(good_and_bad())
    assert good["score"] == 11 and isinstance(bad, MissingScore) and "an empty prompt" in str(bad)


def test_a_broken_scorer_fails_every_call_of_its_request():
    async def two() -> list[Any]:
        calls = (call(verl_omni.compute_score_async, chw(1, 1), "a", broken, weights=None) for _ in range(2))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    broken = LocalRewards([Broken()])
    assert all(isinstance(error, ScorerFailed) for error in asyncio.run(two()))


def test_verl_omni_videos_latents_and_wrong_keys_are_refused():
    for picture in (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(16, 8, 8)):
        with pytest.raises(BadImage, match="output_type to image"):
            call(verl_omni.compute_score, picture, "a", local())
    with pytest.raises(ConfigError, match="unknown key 'wieghts'"):
        call(verl_omni.compute_score, chw(1, 2), "a", local(), wieghts={})


# --- the published flow_grpo


def batches() -> Sequence[Any]:
    """The two forms in which its scripts pass pictures."""
    arrays = np.stack([plain(10, 2), plain(30, 4)])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255, arrays


def test_multi_score_returns_what_the_training_scripts_read():
    reward = flow_grpo.multi_score(torch.device("cpu"), {"red": 0.5, "letters": 2.0, "green": 0.0}, local())
    for images in batches():
        scores, metadata = reward(images, ("a", "bbb"), [{}, {}], only_strict=True)
        assert metadata == {}
        assert scores == {"red": [10, 30], "letters": [1, 3], "green": [2, 4], "avg": [7, 21]}
        assert torch.as_tensor(scores["avg"]).float().tolist() == [7, 21]


def test_score_function_is_one_entry_among_upstreams_own():
    """Its `multi_score` looks at `__code__` to see whether a factory takes a device."""
    factory = lambda: flow_grpo.score_function(local(), WEIGHTS)  # noqa: E731
    assert "device" not in factory.__code__.co_varnames
    scores, metadata = factory()(batches()[0], ["a", "bbb"], [{}, {}])
    assert (scores, metadata) == ([7, 21], {})


def test_flow_grpo_never_gets_a_number_for_a_missing_score():
    rewards = local()
    with pytest.raises(MissingScore, match="picture 1: an empty prompt"):
        flow_grpo.multi_score("cpu", WEIGHTS, rewards)(batches()[0], ["a", ""], [{}, {}])
    only_logged = flow_grpo.multi_score("cpu", {"red": 1.0, "letters": 0.0}, rewards)
    scores, _ = only_logged(batches()[0], ["a", ""], [{}, {}])
    assert scores["avg"] == [10, 30] and np.isnan(scores["letters"][1])
    with pytest.raises(ConfigError, match="unknown dimension 'iaa'"):
        flow_grpo.multi_score("cpu", {"iaa": 1.0}, rewards)


# --- notebooks


def test_the_notebook_table(tmp_path: Path):
    (tmp_path / "<red>.png").write_bytes(to_png(plain(200, 2)))
    pictures: list[ImageLike] = [tmp_path / "<red>.png", PIL.Image.fromarray(plain(10, 2)), b"junk"]
    scores = notebook.score(pictures, "abc", rewards=local(), weights=WEIGHTS)
    assert scores[0] == {
        "picture": "<red>.png", "red": 200, "green": 2, "letters": 3, "reward": 106, "error": None
    }  # fmt: skip
    assert scores[2]["reward"] is None and "not one of PNG" in scores[2]["error"]
    head, first, _, last = repr(scores).splitlines()
    assert head.split() == ["picture", "red", "green", "letters", "reward", "error"]
    assert first.split() == ["<red>.png", "200", "2", "3", "106", "–"] and last.startswith("2 ")
    assert "<td>&lt;red&gt;.png</td>" in scores._repr_html_() and "<td>106</td>" in scores._repr_html_()


def test_the_notebook_takes_one_picture_a_list_or_a_batch():
    images = np.stack([plain(10, 2), plain(30, 4)])
    for several in (images, list(images), torch.from_numpy(images).permute(0, 3, 1, 2)):
        assert [row["red"] for row in notebook.score(several, rewards=LocalRewards([ChannelMeans()]))] == [
            10,
            30,
        ]
    for one in (images[0], PIL.Image.fromarray(images[0]), to_png(images[0])):
        assert len(notebook.score(one, rewards=PIXELS)) == 1
    assert repr(notebook.score([], rewards=PIXELS)) == "no pictures"


def test_the_notebook_says_which_sources_there_are():
    with pytest.raises(ConfigError, match="give one of url"):
        notebook.score([plain(1, 2)])
    with pytest.raises(ConfigError, match="give one of url"):
        notebook.score([plain(1, 2)], url="http://127.0.0.1:8100", model="pocket/weights/unipercept")


def test_a_model_folder_is_enough():
    scores = notebook.score(PIL.Image.new("RGB", (32, 32), "teal"), model="pocket/weights/unipercept")
    assert set(scores[0]) == {"picture", "iaa", "iqa", "ista", "error"} and 0 <= scores[0]["iaa"] <= 100
