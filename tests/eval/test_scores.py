"""Scores of a comparison are kept as they come: what was scored is not asked for again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.compare import run
from eval.config import CompareConfig, Sampling
from eval.generate import Item
from eval.metrics import Bootstrap
from eval.scores import Kept, score, scorer_identity
from flow_grpo.config import RewardConfig
from reward_plugin.client import RewardClient
from reward_plugin.local import LocalRewards
from reward_plugin.scorers.pixels import PixelScorer
from reward_plugin.types import ScoreTable
from tests.tiny import tiny_prompts

PIXELS = RewardConfig(weights={"colourfulness": 1.0}, scorers=[{"name": "pixels"}])


class Counting(PixelScorer):
    """Pixel statistics that count what they are asked for, and are interrupted at a call.

    Attributes:
        asked: pictures so far.
        fails_at: number of the call that is interrupted, from 1; 0: none.
        missing: how many pictures of each call have no score.
    """

    def __init__(self, fails_at: int = 0, missing: int = 0) -> None:
        self.asked, self.calls, self.fails_at, self.missing = 0, 0, fails_at, missing

    def score(self, images, prompts=None) -> ScoreTable:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.asked += len(images)
        errors = ["planted" if i < self.missing else None for i in range(len(images))]
        return super().score(images[self.missing :]).scatter(errors)


@pytest.fixture
def compare(
    flux: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict, int]]:
    """Run a comparison of 2 models on 2 prompts x 2 members; its record, and how many scores it asked for."""

    def compare(scorer: Counting, out: str = "out", reward: RewardConfig = PIXELS) -> tuple[dict, int]:
        monkeypatch.setattr("eval.compare.build_rewards", lambda source: LocalRewards([scorer]))
        config = CompareConfig(
            model=str(flux),
            prompts=str(tiny_prompts(tmp_path / "prompts.txt")),
            out=str(tmp_path / out),
            members=2,
            lora=str(lora),
            sampling=Sampling(num_steps=2, height=32, width=32, max_sequence_length=32),
            reward=reward,
            bootstrap=Bootstrap(resamples=200),
        )
        return run(config), scorer.asked

    return compare


def test_an_interrupted_comparison_scores_nothing_twice_and_ends_as_an_undisturbed_one(
    compare: Callable[..., tuple[dict, int]], tmp_path: Path
):
    undisturbed, asked = compare(Counting(), "undisturbed")
    assert asked == 8
    stopped = Counting(fails_at=2)
    with pytest.raises(KeyboardInterrupt):
        compare(stopped)
    assert stopped.asked == 4
    file = tmp_path / "out" / "scores" / "0.jsonl"
    lines = file.read_bytes()
    assert lines.count(b"\n") == 4
    file.write_bytes(lines[:-20])  # killed while it wrote
    record, asked = compare(Counting())
    assert asked == 5  # the other model's, and the one whose row was cut off
    assert record["samples"] == undisturbed["samples"]
    assert record["comparisons"][0]["summary"] == undisturbed["comparisons"][0]["summary"]
    assert all(json.loads(line)["scores"] for line in file.read_bytes().splitlines())
    again, asked = compare(Counting())
    assert asked == 0
    assert again["samples"] == record["samples"]


def test_another_picture_another_scorer_and_what_was_missing_are_scored_anew(
    compare: Callable[..., tuple[dict, int]], tmp_path: Path
):
    assert compare(Counting(missing=1))[1] == 8
    record, asked = compare(Counting())
    assert asked == 2
    assert record["comparisons"][0]["summary"]["reward"]["missing"] == 0
    images = tmp_path / "out" / "gallery" / "images"
    shutil.copy(images / "base" / "0000-0.png", images / "base" / "0001-1.png")
    assert compare(Counting())[1] == 1
    with_prefix = RewardConfig(weights={"colourfulness": 1.0}, scorers=[{"name": "pixels", "prefix": "x"}])
    assert compare(Counting(), reward=with_prefix)[1] == 8


def test_files_of_other_processes_count_and_a_picture_that_is_gone_is_a_missing_score(tmp_path: Path):
    import PIL.Image

    items = [Item("a prompt", 0, member) for member in range(3)]
    files = [tmp_path / item.file for item in items]
    for i, file in enumerate(files[:2]):
        PIL.Image.new("RGB", (8, 8), (90 * i, 40, 120)).save(file)
    first, second = Counting(), Counting()
    rewards = LocalRewards([first])
    with Kept(tmp_path / "scores", 1, "pixels", rewards.dimensions) as kept:
        table = score(rewards, items, files, "one", kept)
    rewards = LocalRewards([second])
    with Kept(tmp_path / "scores", 0, "pixels", rewards.dimensions) as kept:
        again = score(rewards, items, files, "one", kept)
    assert (first.asked, second.asked) == (2, 0)
    np.testing.assert_array_equal(table.values, again.values)
    assert table.errors == again.errors == (None, None, f"{files[2]} is missing")
    with Kept(tmp_path / "scores", 0, None, rewards.dimensions) as kept:  # nobody says what scores
        score(rewards, items, files, "one", kept)
    assert second.asked == 2
    assert not (tmp_path / "scores" / "0.jsonl").exists()


def test_what_scores_is_named_by_the_scorers_or_by_the_server(monkeypatch: pytest.MonkeyPatch):
    with LocalRewards([PixelScorer()]) as rewards:
        assert scorer_identity(PIXELS, rewards) == "pixels"
    served = RewardConfig(weights={"iaa": 1.0}, url="http://127.0.0.1:9")
    with RewardClient("http://127.0.0.1:9") as client:
        for answer, expected in (({"scored_by": "unipercept@1"}, "unipercept@1"), ({}, None)):
            monkeypatch.setattr(RewardClient, "description", answer)
            assert scorer_identity(served, client) == expected
