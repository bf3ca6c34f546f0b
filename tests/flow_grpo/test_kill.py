"""SIGKILL at any moment costs at most the iterations since the last checkpoint, and never the checkpoint."""

import os
import signal
import sys

import pytest
import torch

from benchmarks.kill_resume import differences, kill_at_call, measure
from flow_grpo import checkpoint
from flow_grpo.checkpoint import Checkpoint
from flow_grpo.files import replacing, sweep


def killed_at_call(number: int, action) -> bool:
    """Run `action` in a process that is killed before its number-th writing call; False if it got through."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            kill_at_call(number)()
            action()
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def state(value: float) -> Checkpoint:
    return Checkpoint({name: {"a": torch.full((3,), value)} for name in ("adapter", "ema")}, {"value": value})


@pytest.mark.parametrize("step", [1, 2], ids=["the same iteration again", "the next one"])
def test_a_save_killed_at_any_call_leaves_the_former_state_or_the_new_one_whole(tmp_path, step):
    seen, number = set(), 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        checkpoint.save(folder, 1, state(1.0), keep=1)
        killed = killed_at_call(number, lambda f=folder: checkpoint.save(f, step, state(2.0), keep=1))
        newest = checkpoint.latest(folder)
        assert newest is not None
        found = checkpoint.load(newest)
        seen.add(found.state["value"])
        assert set(found.tensors) == {"adapter", "ema"}
        assert all(
            torch.equal(t["a"], torch.full((3,), found.state["value"])) for t in found.tensors.values()
        )
        for complete in folder.glob("step-*"):
            assert len(list(complete.iterdir())) == 3  # nothing is there in part
        checkpoint.save(folder, 3, state(3.0), keep=1)
        assert [path.name for path in folder.iterdir()] == ["step-000003"]
        if not killed:
            break
    assert number > 8 and seen == {1.0, 2.0}


def test_a_file_killed_at_any_call_is_the_former_or_the_new_one(tmp_path):
    target, number = tmp_path / "lora", 0

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("new")

    while True:
        target.write_text("old")
        number += 1
        killed = killed_at_call(number, write)
        assert target.read_text() in ("old", "new")
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["lora"]
        if not killed:
            break
    assert number > 2 and target.read_text() == "new"


@pytest.mark.timeout(900)
def test_a_run_killed_three_times_ends_as_an_undisturbed_one_to_the_bit(tmp_path):
    tally = measure(kills=3, iterations=5, seed=1, folder=tmp_path)
    assert tally.kills == 3 and tally.while_writing == 1
    assert tally.differences == []
    # The comparison itself sees a difference, and all that a run leaves has been compared.
    ours, theirs = tmp_path / "straight", tmp_path / "killed"
    line = (theirs / "metrics.jsonl").read_text().splitlines(keepends=True)
    (theirs / "metrics.jsonl").write_text("".join(line[:-1]))
    (theirs / "checkpoints" / "step-000005" / "ema.safetensors").unlink()
    assert len(differences(ours, theirs)) == 2
