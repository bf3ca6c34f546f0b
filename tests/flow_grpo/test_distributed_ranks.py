"""Several gloo processes: the update of one, in whatever number a run goes on, and an end when one dies."""

import json
import os
import re
import signal

import pytest
from safetensors.torch import load_file

from flow_grpo import checkpoint
from flow_grpo.train import main
from tests.flow_grpo.ranks import group

pytestmark = pytest.mark.timeout(900)
ENDLESS = {"iterations": 100000, "validation.every": 100000, "checkpoint.every": 2}


def rows(run, name="metrics.jsonl"):
    file = run / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def assert_close(ours, theirs, step):
    """Two runs whose weights and records differ by rounding alone."""
    for name in ("adapter", "ema"):
        weights, others = (
            load_file(run / f"checkpoints/step-{step:06d}/{name}.safetensors") for run in (ours, theirs)
        )
        moved = max(value.abs().max() for key, value in weights.items() if "lora_B" in key)
        assert moved > 1e-5
        assert max((weights[key] - others[key]).abs().max() for key in weights) < 0.02 * moved
    for file in ("metrics.jsonl", "eval.jsonl"):
        assert [row["step"] for row in rows(ours, file)] == [row["step"] for row in rows(theirs, file)] != []
        for left, right in zip(rows(ours, file), rows(theirs, file), strict=True):
            for key in ("reward", "colourfulness", "sharpness", "grad_norm", "group_std"):
                if key in left:
                    assert right[key] == pytest.approx(left[key], rel=2e-3)


def test_a_run_goes_on_with_four_two_and_one_processes_as_one_alone_would(arguments, tmp_path):
    """Prompts and held-out prompts are no multiple of the processes; an epoch ends within the run."""
    (tmp_path / "three.txt").write_text("a red boat\na blue cat\na green apple\n")
    (tmp_path / "nine.txt").write_text("".join(f"a {word} boat\n" for word in "abcdefghi"))
    options = {
        "prompts.train": tmp_path / "nine.txt",
        "prompts.validation": tmp_path / "three.txt",
        "prompts.per_iteration": 4,
        "advantage.std": "batch",
        "optimizer.updates_per_rollout": 2,
        "optimizer.micro_batch": 3,
        "validation.every": 1,
        "checkpoint.keep": 9,
    }
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert main(arguments(run_dir=alone, **{**options, "iterations": 4})) == 0
    for iterations, processes in ((2, 4), (3, 2)):
        command = arguments(run_dir=many, **{**options, "iterations": iterations})
        assert [p.wait() for p in group(processes, command, tmp_path / f"{processes}")] == [0] * processes
    assert main(arguments(run_dir=many, **{**options, "iterations": 4})) == 0
    assert_close(alone, many, step=4)
    states = [json.loads((run / "checkpoints/step-000003/state.json").read_text()) for run in (alone, many)]
    assert states[0]["cursor"] == states[1]["cursor"] == {"epoch": 1, "offset": 4}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_which_says_so(arguments, tmp_path, victim):
    run = tmp_path / "run"
    both = group(2, arguments(run_dir=run, **ENDLESS), tmp_path / "logs")
    both[victim].until(lambda: len(rows(run)) >= 3)
    both[victim].send(signal.SIGKILL)
    survivor = both[1 - victim]
    assert survivor.wait(120) == 1
    said = re.search(
        rf"error: process {1 - victim} lost another process during iteration \d+: .*\n"
        r"The newest state is in (\S+)\. Start the same command again with --resume auto",
        survivor.text(),
    )
    assert said is not None, survivor.text()[-3000:]
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None and (victim == 0 or str(newest) == said[1])
    done = checkpoint.load(newest).state["iteration"]
    assert done >= 2
    assert main(arguments(run_dir=run, **{**ENDLESS, "iterations": done + 1})) == 0
    assert [row["step"] for row in rows(run)] == list(range(1, done + 2))


def test_a_velocity_that_is_not_finite_on_one_process_ends_both_with_the_means_to_replay_it(
    arguments, tmp_path
):
    def spoil_the_second():
        from flow_grpo.policy.flux import FluxPolicy

        if os.environ["RANK"] == "1":
            velocity = FluxPolicy.velocity
            FluxPolicy.velocity = lambda *args: velocity(*args) * float("nan")  # type: ignore[method-assign]

    run = tmp_path / "run"
    options = {**ENDLESS, "prompts.validation": "null"}
    both = group(2, arguments(run_dir=run, **options), tmp_path / "logs", before=spoil_the_second)
    assert [process.wait() for process in both] == [1, 1]
    assert "Traceback" not in both[0].text() + both[1].text()
    assert both[0].text().count("flow_grpo.train: error:") == 1
    replay = json.loads((run / "replay.json").read_text())
    assert replay["iteration"] == 1 and "replay.json" in both[0].text()
