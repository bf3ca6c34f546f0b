"""The page about a run under way: written at each validation, honest about what is not there, ended with
the run.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.watch import read_state, watch, write_page
from tests.eval.test_contenders import training_run
from tests.tiny import tiny_prompts


def record(run_dir: Path, step: int, **means: float) -> None:
    """A validation and the iterations up to it, as the trainer writes them."""
    with open(run_dir / "eval.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "reward": 50.0 + step, **means, "best_step": step}) + "\n")
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "reward": 49.0 + step, "kl": 0.1}) + "\n")


def begin(run_dir: Path, iterations: int = 4) -> Path:
    run_dir.mkdir(exist_ok=True)
    config = {"iterations": iterations, "reward": {"weights": {"iaa": 1.0}}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    return run_dir


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path):
    assert "No validation yet" in write_page(tmp_path, read_state(tmp_path)).read_text()
    assert read_state(tmp_path).iterations is None


def test_the_page_has_every_validation_and_rings_by_size(tmp_path: Path):
    begin(tmp_path)
    record(tmp_path, 0, iaa=50.0, adherence=90.0, grid_energy=0.001, saturation=0.4)
    record(tmp_path, 2, iaa=56.25, adherence=81.5, grid_energy=0.3, saturation=0.41)
    page = write_page(tmp_path, read_state(tmp_path)).read_text()
    assert "56.2" in page and "+6.2" in page and "−8.5" in page
    assert "A fine regular grid or dot pattern over the picture: seen" in page
    assert "reward +2.0; fallen by more than 2 %: Prompt adherence −9.4 %" in page
    assert "something that it does not measure: seen" in page
    assert "Colours driven to their limits: not seen" in page
    assert "diversity" not in page.lower()  # a run's validation does not measure it
    assert "2 of 4 iterations" in page and 'http-equiv="refresh"' in page
    record(tmp_path, 4, iaa=57.0, adherence=81.0, grid_energy=0.3, saturation=0.41)
    finished = write_page(tmp_path, read_state(tmp_path)).read_text()
    assert read_state(tmp_path).finished
    assert "Run, finished" in finished and "http-equiv" not in finished


def test_a_run_is_not_finished_before_its_last_validation(tmp_path: Path):
    begin(tmp_path)
    record(tmp_path, 2, iaa=50.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "reward": 55.0}\n')
    assert read_state(tmp_path).done == 4 and not read_state(tmp_path).finished
    record(tmp_path, 4, iaa=52.0)
    assert read_state(tmp_path).finished


def test_it_is_rewritten_at_each_validation_and_ends_with_the_run(tmp_path: Path):
    begin(tmp_path)
    record(tmp_path, 0, iaa=50.0)
    thread = threading.Thread(target=watch, args=(tmp_path,), kwargs={"every": 0.02})
    thread.start()
    page = tmp_path / "report.html"

    def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end and thread.is_alive()
            time.sleep(0.02)

    until(lambda: page.is_file() and "1 validation;" in page.read_text())
    record(tmp_path, 2, iaa=51.0)
    until(lambda: "2 validations;" in page.read_text())
    record(tmp_path, 4, iaa=52.0)
    thread.join(60)
    assert not thread.is_alive() and "3 validations;" in page.read_text()


def test_new_checkpoints_are_compared(
    flux: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_dir = begin(tmp_path / "run")
    training_run(run_dir, lora, (5,))
    values: dict[str, Any] = {
        "model": str(flux),
        "prompts": str(tiny_prompts(tmp_path / "prompts.txt")),
        "out": str(tmp_path / "compared"),
        "sampling": {"num_steps": 1, "height": 32, "width": 32, "max_sequence_length": 32},
        "probe": {"prompts": 0},
        "reward": {"weights": {"colourfulness": 1.0}, "scorers": [{"name": "pixels"}]},
        "bootstrap": {"resamples": 50},
    }
    config = tmp_path / "compare.yaml"
    config.write_text(yaml.safe_dump(values))
    command = ["watch", "--run_dir", str(run_dir), "--compare", str(config), "--once"]
    assert main(command) == 0
    models = json.loads((tmp_path / "compared" / "results.json").read_text())["models"]
    assert [model["name"] for model in models] == ["base", "step@5", "tuned"]
    assert "Comparison of checkpoints" in (run_dir / "report.html").read_text()

    config.write_text(yaml.safe_dump(values | {"prompts": str(tmp_path / "none.txt")}))
    assert main(command) == 0  # the page is there all the same
    assert "not compared: prompt file" in capsys.readouterr().err


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["watch", "--run_dir", str(tmp_path / "none"), "--once"]) == 1
    assert "is no folder; give the run_dir" in capsys.readouterr().err
