"""The command end to end on a tiny pipeline: what it writes, what it refuses, and what survives a failure."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.compare import run
from eval.config import CompareConfig, Sampling
from eval.metrics import Bootstrap
from eval.results import NothingScored, read
from flow_grpo.config import RewardConfig
from reward_plugin.errors import ServerUnavailable
from reward_plugin.local import LocalRewards
from reward_plugin.scorers.pixels import PixelScorer
from reward_plugin.types import ScoreTable
from tests.tiny import tiny_prompts

REWARD = RewardConfig(weights={"colourfulness": 1.0}, scorers=[{"name": "pixels"}])


@pytest.fixture
def config(flux: Path, tmp_path: Path) -> Callable[..., CompareConfig]:
    def make(**changes: object) -> CompareConfig:
        options: dict = {
            "model": str(flux),
            "prompts": str(tiny_prompts(tmp_path / "prompts.txt")),
            "out": str(tmp_path / "out"),
            "members": 2,
            "sampling": Sampling(num_steps=2, height=32, width=32, max_sequence_length=32),
            "reward": REWARD,
            "bootstrap": Bootstrap(resamples=200),
        }
        return CompareConfig(**{**options, **changes})

    return make


def test_a_lora_of_zeros_gives_exactly_zero_differences(
    config: Callable[..., CompareConfig], make_lora: Callable[[float], Path]
):
    record = run(config(lora=str(make_lora(0.0))))
    for result in record["comparisons"][0]["summary"].values():
        assert result["difference"] == 0.0
        assert result["interval"] == [0.0, 0.0]
        assert (result["win_rate"], result["ties"], result["wins"]) == (0.5, result["n"], 0)
    assert all(sample["sides"]["tuned"]["distance"]["pixels"] == 0.0 for sample in record["samples"])
    assert not record["comparisons"][0]["verdict"]["held"]


def test_comparison_writes_record_report_and_gallery_and_resumes(
    config: Callable[..., CompareConfig], lora: Path, tmp_path: Path, make_lora: Callable[[float], Path]
):
    trained = tmp_path / "train"
    shutil.copytree(lora, trained)
    rows = [{"step": step, "reward": 10.0 + step, "reward/colourfulness": 10.0 + step} for step in range(3)]
    (trained / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = run(config(run_dir=str(trained)))
    out = tmp_path / "out"
    assert read(out / "results.json") == record
    assert record["comparisons"][0]["summary"]["colourfulness"]["difference"] != 0.0
    assert len(list((out / "gallery" / "images").rglob("*.png"))) == 8
    assert "weighted reward" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert "During training" in page and "No curves were recorded" not in page
    assert (out / "gallery" / "index.html").is_file()

    times = {path: path.stat().st_mtime_ns for path in (out / "gallery" / "images").rglob("*.png")}
    again = run(config(run_dir=str(trained)))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again["samples"] == record["samples"]

    shutil.copytree(make_lora(0.5), trained, dirs_exist_ok=True)
    changed = run(config(run_dir=str(trained)))
    remade = {path.parent.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert remade == {"tuned"}
    assert changed["samples"] != record["samples"]


class Flaky(PixelScorer):
    """Pixel statistics that cannot be had for some pictures, or for none at all."""

    def __init__(self, missing: int | None, raises: Exception | None = None) -> None:
        self.missing, self.raises = missing, raises

    def score(self, images, prompts=None) -> ScoreTable:
        if self.raises:
            raise self.raises
        errors = ["planted" if self.missing is None or i < self.missing else None for i in range(len(images))]
        kept = [image for image, error in zip(images, errors, strict=True) if error is None]
        table = super().score(kept) if kept else ScoreTable.computed(self.dimensions, [])
        return table.scatter(errors)


def test_scores_that_fail_are_counted_and_named(
    config: Callable[..., CompareConfig], lora: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("eval.compare.build_rewards", lambda source: LocalRewards([Flaky(1)]))
    record = run(config(lora=str(lora)))
    result = record["comparisons"][0]["summary"]["reward"]
    assert (result["n"], result["missing"]) == (3, 1)
    assert "planted" in (tmp_path / "out" / "report.html").read_text()

    monkeypatch.setattr("eval.compare.build_rewards", lambda source: LocalRewards([Flaky(None)]))
    with pytest.raises(NothingScored, match="the first reason is: planted"):
        run(config(lora=str(lora), out=str(tmp_path / "none")))


def test_pictures_survive_a_server_that_goes_away(
    config: Callable[..., CompareConfig], lora: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    gone = Flaky(0, raises=ServerUnavailable("http://rewards:1 does not answer"))
    monkeypatch.setattr("eval.compare.build_rewards", lambda source: LocalRewards([gone]))
    with pytest.raises(ServerUnavailable):
        run(config(lora=str(lora)))
    assert len(list((tmp_path / "out" / "gallery" / "images").rglob("*.png"))) == 8


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--lora", "{tmp}/none"], "none does not exist", 1),
        (["--lora", "{tmp}"], "has no pytorch_lora_weights.safetensors", 1),
        (["--prompts", "{tmp}/none.txt"], "none.txt does not exist", 1),
        (["--prompts", "{tmp}/empty.txt"], "empty.txt holds no prompt", 1),
        (["--prompts", "{tmp}/twice.txt"], "more than once", 1),
        (["--model", "{tmp}"], "model_index.json", 1),
        (["--reward.weights", "{{iaa: 1.0}}"], "unknown dimension 'iaa'", 1),
        (["--reward.scorers", "[{{name: nothing}}]"], "nothing", 1),
        (["--sampling.height", "30"], "sampling.height is 30", 1),
        (["--sampling.hight", "32"], "hight", 2),
        (["--members", "0"], "members is 0; it must be at least 1", 2),
        (["--bootstrap.confidence", "95"], "confidence is 95", 2),
        (["--config", "{tmp}/none.yaml"], "none.yaml", 2),
    ],
)
def test_bad_input_ends_in_one_line_and_a_code(
    flux: Path,
    lora: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    code: int,
):
    (tmp_path / "empty.txt").write_text("\n# only a comment\n")
    (tmp_path / "twice.txt").write_text("a cat\na boat\nA  cat\n")
    prompts = tiny_prompts(tmp_path / "prompts.txt")
    command = ["compare", "--model", str(flux), "--lora", str(lora), "--prompts", str(prompts)]
    command += ["--out", str(tmp_path / "out"), "--sampling.height", "32", "--sampling.width", "32"]
    command += ["--reward.weights", "{colourfulness: 1.0}", "--reward.scorers", "[{name: pixels}]"]
    assert main([*command, *(argument.format(tmp=tmp_path) for argument in arguments)]) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("eval: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out" / "results.json").exists()


def test_neither_run_nor_lora_is_an_error():
    with pytest.raises(ValueError, match="neither lora nor run_dir nor models is set"):
        CompareConfig()


def test_report_command_draws_the_pages_again(
    config: Callable[..., CompareConfig], lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(config(lora=str(lora)))
    (tmp_path / "out" / "report.html").unlink()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "does not exist; run" in capsys.readouterr().err
