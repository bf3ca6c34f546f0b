"""Bad input ends in a counted, named report, and never in a smaller mean that nobody notices."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.compare import run, write_pages
from eval.config import CompareConfig, Probe, Sampling
from eval.generate import Item
from eval.metrics import Bootstrap
from eval.pictures import look
from eval.results import VERSION, read
from eval.scores import Kept, score
from flow_grpo.config import RewardConfig
from reward_plugin.local import LocalRewards
from reward_plugin.scorers.pixels import PixelScorer
from tests.eval.schema import complaints


@pytest.fixture
def config(flux: Path, lora: Path, tmp_path: Path) -> Callable[..., CompareConfig]:
    def make(**changes: object) -> CompareConfig:
        options: dict = {
            "model": str(flux),
            "lora": str(lora),
            "prompts": str(tmp_path / "prompts.jsonl"),
            "out": str(tmp_path / "out"),
            "sampling": Sampling(1, 3.5, 32, 32, 32),
            "probe": Probe(0),
            "reward": RewardConfig(weights={"colourfulness": 1.0}, scorers=[{"name": "pixels"}]),
            "bootstrap": Bootstrap(resamples=50),
        }
        return CompareConfig(**{**options, **changes})

    return make


def test_broken_lines_are_left_out_by_name_and_change_no_other_picture(
    config: Callable[..., CompareConfig], tmp_path: Path
):
    lines = [
        '{"prompt": "a red apple"}',
        '{"prompt": "a blue boat"',
        '{"prompt": "a cat"}',
        '{"text": "an owl"}',
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    record = run(config())
    assert [(p["kind"], p["reason"].split(":")[0]) for p in record["problems"]] == [
        ("prompt", "line 2"),
        ("prompt", "line 4"),
    ]
    assert [sample["prompt_index"] for sample in record["samples"]] == [0, 2]
    out = tmp_path / "out"
    page = (out / "report.html").read_text()
    assert (
        "2 broken entries of the prompt file, left out of every mean" in page and "line 2: not JSON" in page
    )
    assert "2 broken entries of the prompt file, left out:" in (out / "report.md").read_text()

    # Mended, the others keep their place in the file, and so their noise and their pictures.
    before = {path.name: path.stat().st_mtime_ns for path in (out / "gallery/images/base").glob("*.png")}
    lines[1] += "}"
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines[:3]))
    assert len(run(config())["samples"]) == 3
    after = {path.name: path.stat().st_mtime_ns for path in (out / "gallery/images/base").glob("*.png")}
    assert {name: after[name] for name in before} == before and len(after) == 3


def test_pictures_that_are_gone_have_no_score_and_say_so(tmp_path: Path):
    import PIL.Image

    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    items = [Item("a cat", number, 0) for number in range(3)]
    rewards = LocalRewards([PixelScorer()])
    with Kept(tmp_path / "scores", 0, "pixels", rewards.dimensions) as kept:
        found = score(rewards, items, files, "test", kept)
    assert np.isfinite(found.values[0]).all() and np.isnan(found.values[1:]).all()
    assert found.errors[0] is None and found.errors[1] and found.errors[2] == f"{files[2]} is missing"
    for file in files[1:]:
        seen = look(files[0], file)
        assert np.isnan(seen.pixels) and seen.small is None and str(file) in (seen.problem or "")
    assert look(files[1], files[0]).problem is None  # the reference's own look says it


def test_a_record_of_version_1_is_brought_up_to_date(config: Callable[..., CompareConfig], tmp_path: Path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red apple"}\n{"prompt": "a blue boat"}\n')
    record = run(config(members=2))
    old = json.loads(json.dumps(record)) | {"version": 1}
    for key in ("problems", "published"):
        del old[key]
    old["dimensions"] = [entry for entry in old["dimensions"] if entry["role"] != "distance"]
    for model in old["models"]:
        for key in ("distribution", "run", "step", "seed"):
            del model[key]
    for sample in old["samples"]:
        sample["change"] = sample["sides"]["tuned"].pop("distance")["pixels"]
        del sample["sides"]["base"]["distance"]
    for prompt in old["prompts"]:
        del prompt["velocity_norm"]
    for parts in (old["comparisons"][0]["summary"], *old["comparisons"][0]["categories"].values()):
        parts.pop("pixel_distance", None)
    old["samples"][0]["sides"]["tuned"]["error"] = "planted"
    path = tmp_path / "old" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(old))
    new = read(path)
    assert new["version"] == VERSION and complaints(new) == []
    assert (
        new["samples"][1]["sides"]["tuned"]["distance"] == record["samples"][1]["sides"]["tuned"]["distance"]
    )
    reward = new["models"][1]["distribution"]["reward"]["mean"]
    assert reward == pytest.approx(record["models"][1]["distribution"]["reward"]["mean"], abs=1e-3)
    assert [problem["reason"] for problem in new["problems"]] == ["planted"]
    write_pages(new, tmp_path / "old")  # its pictures are elsewhere: missing, and said so
    assert "8 pictures are missing" in (tmp_path / "old" / "gallery" / "index.html").read_text()
