"""Ablations: which runs a matrix is, what is run again and what never, and what the tables say."""

import csv
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml

from eval.__main__ import main
from eval.ablate_config import AblateConfig, chosen, expand, override, read_mapping, resolve_train
from eval.ablate_runs import Busy, RunFailed, State, Workshop, locked, state_of, write_state
from eval.ablate_server import reward_server
from eval.ablate_table import as_csv, as_markdown, estimate, summarise
from reward_plugin.client import build_rewards
from tests.tiny import tiny_prompts

ROOT = Path(__file__).parents[2]


def matrix(files: dict[str, Any], **changes: Any) -> AblateConfig:
    axes = {
        "reward": {"colour": {}, "naive": {"reward.weights": {"naive_pixels": 2.0}}},
        "remedy": {"none": {}, "kl": {"regularizer.kl_weight": 0.5}},
    }
    paths = {name: path for name, path in files.items() if name != "server"}
    return AblateConfig(**{"axes": axes, "seeds": [0, 7], "reference": "none", **paths, **changes})


def test_runs_are_all_combinations_seed_by_seed(files):
    runs = expand(matrix(files, skip=["naive/kl"]))
    first = ["colour/none/seed0", "colour/kl/seed0", "naive/none/seed0"]
    assert [run.name for run in runs] == first + [name.replace("seed0", "seed7") for name in first]
    kl, naive = runs[1], runs[5]
    assert (kl.train["regularizer"]["kl_weight"], kl.train["seed"]) == (0.5, 0)
    assert kl.train["run_dir"] == f"{files['out']}/colour/kl/seed0/train" == kl.evaluation["run_dir"]
    # Each is judged by what it was trained on, and a mapping is replaced, not merged into.
    assert naive.train["reward"]["weights"] == naive.evaluation["reward"]["weights"] == {"naive_pixels": 2.0}
    assert len({run.identity for run in runs}) == 6
    assert [run.name for run in chosen(runs, ["*/none/seed7", "colour/kl"])] == [
        "colour/kl/seed0",
        "colour/none/seed7",
        "colour/kl/seed7",
        "naive/none/seed7",
    ]


def test_a_later_axis_goes_before_an_earlier_one_and_the_base_is_left_alone():
    base = {"a": {"b": 1, "c": 2}}
    assert override(base, {"a.b": 5, "d.e": {"f": 6}}) == {"a": {"b": 5, "c": 2}, "d": {"e": {"f": 6}}}
    assert base == {"a": {"b": 1, "c": 2}}
    with pytest.raises(ValueError, match=r"a\.b\.x: b holds no keys"):
        override(base, {"a.b.x": 1})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"axes": {"x": {"v": {"optimizer.lrr": 1}}}, "reference": None}, r"^v: .*lrr"),
        ({"axes": {"x": {"v": {"optimizer.lr": 0}}}, "reference": None}, r"^v: optimizer.lr is 0"),
        ({"train": "nowhere.yaml"}, "nowhere.yaml cannot be read"),
        ({"skip": ["*"]}, "leaves nothing to run"),
        ({"axes": {"x": {}}}, "a variant of each"),
        ({"axes": {}, "simplex": [], "reference": None}, "at least one dimension"),
        ({"axes": {}, "simplex": ["iaa", "iaa"], "reference": None}, "none twice"),
        ({"axes": {"x": {"a/b": {}}}}, "names a folder"),
        ({"seeds": [1, 1]}, "none twice"),
        ({"reference": "colour"}, "variants of the last axis: none, kl"),
    ],
)
def test_a_matrix_that_cannot_be_run_is_refused_before_anything_starts(files, changes, text):
    with pytest.raises(ValueError, match=text):
        expand(matrix(files, **changes))
    assert not Path(files["out"]).exists()


def test_without_axes_the_matrix_is_the_simplex_of_the_weights(files):
    config = matrix(files, axes={}, simplex=["colourfulness", "sharpness", "naive_pixels"], reference=None)
    runs = [run for run in expand(config) if run.seed == 0]
    weights = [run.train["reward"]["weights"] for run in runs]
    assert [len(w) for w in weights] == [1, 1, 1, 2, 2, 2, 3]
    assert all(sum(w.values()) == pytest.approx(1.0, abs=1e-3) and len(set(w.values())) == 1 for w in weights)
    assert [run.combination for run in runs][:4:3] == ["colourfulness", "colourfulness_sharpness"]
    two = AblateConfig(simplex=["a", "b"]).axes["weights"]
    assert list(two) == ["a", "b", "a_b"]


def test_a_pattern_that_matches_nothing_is_named(files):
    with pytest.raises(ValueError, match="'kl' matches no run"):
        chosen(expand(matrix(files)), ["kl"])


def test_a_finished_run_of_another_configuration_is_never_taken_for_this_one(files):
    run = expand(matrix(files))[1]
    run.folder.mkdir(parents=True)
    write_state(run, State("done", {"train": 1.0}))
    assert state_of(run).done
    axes = {"reward": {"colour": {}}, "remedy": {"kl": {"regularizer.kl_weight": 0.6}}}
    other = expand(matrix(files, axes=axes, reference=None))[0]
    assert other.folder == run.folder
    with pytest.raises(ValueError, match="holds a run of another configuration; remove that folder"):
        state_of(other)


def test_a_run_that_another_process_works_on_is_left_alone(files):
    config = matrix(files)
    run = expand(config)[0]
    with locked(run.folder):
        [(left, error)] = Workshop(config, 1).work([run])
    assert left is run and isinstance(error, Busy) and state_of(run).stage is None


def test_an_interrupt_stops_the_command_and_all_it_started(files, tmp_path):
    workshop, errors = Workshop(matrix(files), 1), []
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {!r}]); time.sleep(99)"
    # As the trainer under its launcher, it takes a moment to save.
    grandchild = f"""
import signal, sys, time
def save(*_):
    time.sleep(1)
    open({str(tmp_path / "saved")!r}, "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
open({str(tmp_path / "alive")!r}, "w").close()
time.sleep(99)
"""

    def execute():
        with locked(tmp_path / "run") as lock:
            try:
                workshop._execute(["-c", child.format(grandchild)], tmp_path / "log", lock)
            except RunFailed as error:
                errors.append(str(error))

    thread = threading.Thread(target=execute)
    thread.start()
    while not (tmp_path / "alive").exists():
        thread.join(0.05)
    workshop.stopping.set()
    thread.join(60)
    assert errors == ["interrupted"] and (tmp_path / "saved").exists()
    with locked(tmp_path / "run"):  # nothing that had the lock is alive
        pass


def test_intervals_are_students():
    values = [1.0, 2.5, 2.0, 4.0]
    found = estimate([*values, None], 0.9)
    low, high = scipy.stats.t.interval(0.9, 3, np.mean(values), scipy.stats.sem(values))
    assert found["n"] == 4 and found["mean"] == pytest.approx(2.375)
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    assert estimate([3.0], 0.95) == {"mean": 3.0, "low": None, "high": None, "n": 1}
    assert estimate([None], 0.95)["mean"] is None


def result(name: str, seed: int, gain: float, adherence: float | None, state: str = "done") -> dict[str, Any]:
    measured = {"base_mean": 50.0, "tuned_mean": 50.0 + gain, "difference": gain, "relative": gain / 50}
    held = {"base_mean": 90.0, "tuned_mean": None, "difference": None, "relative": adherence}
    return {
        "name": f"r/{name}/seed{seed}",
        "combination": f"r/{name}",
        "variants": {"reward": "r", "remedy": name},
        "seed": seed,
        "state": state,
        "reason": None if state == "done" else "exit code 1; the end of log:\nboom",
        "seconds": {"train": 2.0},
        "iterations": 3,
        "kept_iteration": None,
        "summary": {"reward": measured, "adherence": held} if state == "done" else {},
        "curves": {"reward": {"steps": [0.0, 2.0], "values": [50.0, 50.0 + gain]}} if state == "done" else {},
    }


def test_tables_say_what_was_measured_and_what_was_not():
    rows = [
        result("none", 0, 10.0, -0.1),
        result("none", 1, 14.0, -0.2),
        result("kl", 0, 9.0, -0.01),
        result("kl", 1, 9.0, None, state="failed"),
    ]
    record = {
        "title": "T",
        "confidence": 0.95,
        "settings": {"columns": ["adherence"], "reference": "none", "axes": {"reward": {}, "remedy": {}}},
        "runs": rows,
        "variants": [summarise(rows[:2], 0.95), summarise(rows[2:], 0.95)],
    }
    page = as_markdown(record)
    low, high = scipy.stats.t.interval(0.95, 1, 12, 2)
    assert f"| none | 2 | +12.0 ({low:+.1f} to {high:+.1f}) | 100 % | -15.0" in page
    # One seed: no interval, no figure for the other, and a share of the reference's gain with that seed.
    assert "| kl | 1 | +9.0 | 90 % | -1.0 |" in page
    assert "1 of 4 runs are not in these figures" in page and "* r/kl/seed1: exit code 1" in page
    table = list(csv.DictReader(as_csv(record).splitlines()))
    assert [row["reward/difference"] for row in table] == ["10.0", "14.0", "9.0", ""]
    assert table[3]["state"] == "failed" and table[0]["adherence/tuned_mean"] == ""


def test_every_variant_of_the_lab_is_a_valid_configuration(monkeypatch):
    monkeypatch.chdir(ROOT)
    values = read_mapping("configs/lab/matrix.yaml")
    assert len(values["seeds"]) >= 3 and set(values["axes"]["reward"]) == {"unipercept", "naive"}
    values["axes"]["reward"] = {"naive": values["axes"]["reward"]["naive"]}  # once each is enough
    runs = expand(AblateConfig(**{**values, "seeds": [0], "skip": []}))
    assert [run.variants["remedy"] for run in runs] == list(values["axes"]["remedy"])
    assert len({run.identity for run in runs}) == len(runs)


def test_each_algorithm_of_the_lab_is_the_file_of_its_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = expand(AblateConfig(**read_mapping("configs/lab/algorithms.yaml")))
    assert [run.combination for run in runs] == [
        "grpo",
        "guard",
        "nft",
        "cps",
        "dance",
        "fast",
        "mix",
        "branch",
    ]
    for run in runs:
        file = resolve_train(read_mapping(f"configs/lab/{run.combination}.yaml"))
        unused = {"run_dir", "grpo", "guard", "nft"} - {file["algorithm"]}
        assert {k: v for k, v in run.train.items() if k not in unused} == {
            k: v for k, v in file.items() if k not in unused
        }, run.name


def test_the_example_in_the_docs_is_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "lab.md").read_text()
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert len(expand(AblateConfig(**example))) == 12


def test_the_bases_pictures_are_linked_from_a_finished_run(files):
    config = matrix(files)
    done, other, third = expand(config)[:3]
    pictures = done.folder / "eval" / "gallery" / "images" / "base"
    pictures.mkdir(parents=True)
    (pictures / "0000-0.png").write_bytes(b"picture")
    write_state(done, State("trained", {}))
    other.folder.mkdir(parents=True)
    Workshop(config, 1)._borrow_base(other)
    assert not (other.folder / "eval").exists()  # not finished: they may be half there
    write_state(done, State("done", {}))
    Workshop(config, 1)._borrow_base(other)
    linked = other.folder / "eval" / "gallery" / "images" / "base" / "0000-0.png"
    assert (
        linked.read_bytes() == b"picture" and linked.stat().st_ino == (pictures / linked.name).stat().st_ino
    )
    assert not (third.folder).exists()


def test_one_server_answers_for_all_runs_and_is_stopped(files, tmp_path):
    config = matrix(files, server=files["server"])
    with reward_server(config) as url:
        assert url is not None
        with build_rewards({"url": url}) as rewards:
            rewards.wait_ready(60)
            assert "naive_pixels" in rewards.dimensions
        workshop, run = Workshop(config, 1, url), expand(config)[0]
        run.folder.mkdir(parents=True)
        workshop._prepare(run)
    for name in ("train", "evaluate"):
        written = yaml.safe_load((run.folder / f"{name}.yaml").read_text())["reward"]
        assert (written["url"], written["scorers"]) == (url, None)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{url}/ready", timeout=5)


def test_a_server_that_cannot_start_is_one_message(files, tmp_path):
    (tmp_path / "server.yaml").write_text("scorers: [{name: nothing}]")
    with pytest.raises(RunFailed, match="the reward server is not ready"):
        with reward_server(matrix(files, server=files["server"])):
            pass


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_matrix_is_trained_compared_and_taken_up_again(files, tmp_path, capsys):
    prompts, out = tmp_path / "later.txt", Path(files["out"])
    config = tmp_path / "matrix.yaml"
    axes = {"prompts": {"later": {"prompts.train": str(prompts)}}}
    config.write_text(
        yaml.safe_dump({**files, "server": None, "axes": axes, "seeds": [3], "columns": ["sharpness"]})
    )
    command = ["ablate", "--config", str(config)]
    assert main([*command, "--dry-run"]) == 0
    assert "1 of 1 runs to do, 1 at a time" in capsys.readouterr().out and not out.exists()

    assert main(command) == 1
    assert "1 of 1 runs failed" in (message := capsys.readouterr().err) and "later.txt" in message
    results = json.loads((out / "results.json").read_text())
    assert [row["state"] for row in results["runs"]] == ["failed"]
    assert results["variants"][0]["dimensions"] == {}

    tiny_prompts(prompts)
    assert main([*command, "--list"]) == 0
    assert capsys.readouterr().out.split() == ["begun", "later/seed3"]
    assert main(command) == 0
    results = json.loads((out / "results.json").read_text())
    [row] = results["runs"]
    assert row["state"] == "done" and row["iterations"] == 1 and row["seconds"]["train"] > 0
    assert set(row["summary"]) >= {"reward", "sharpness", "diversity"}
    assert "| later | 1 |" in (page := (out / "table.md").read_text()) and "sharpness, %" in page

    record = (out / "later/seed3/run.json").stat().st_mtime_ns
    assert main(command) == 0
    assert "0 of 1 runs to do" in capsys.readouterr().out
    assert (out / "later/seed3/run.json").stat().st_mtime_ns == record
