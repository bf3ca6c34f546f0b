"""Checkpoints appear whole or not at all, and hold nothing that is pickled."""

import json

import pytest
import torch

from flow_grpo import checkpoint
from flow_grpo.checkpoint import Checkpoint
from flow_grpo.files import replacing, write_tensors
from flow_grpo.log import _truncate


def example(value=1.0):
    return Checkpoint({"adapter": {"a": torch.full((2, 3), value)}}, {"iteration": 5})


def test_saves_and_loads(tmp_path):
    path = checkpoint.save(tmp_path, 5, example(2.5), keep=2)
    loaded = checkpoint.load(path)
    assert (
        torch.equal(loaded.tensors["adapter"]["a"], torch.full((2, 3), 2.5))
        and loaded.state["iteration"] == 5
    )
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_keeps_the_newest_by_number(tmp_path):
    for step in (9, 10, 100000, 2000000):
        checkpoint.save(tmp_path, step, example(), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-100000", "step-2000000"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-2000000"


def test_a_failed_write_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, example(), keep=1)
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(tmp_path, 2, example(), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_half_written_folder_is_not_a_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, example(), keep=1)
    (tmp_path / "step-000002").mkdir()
    (tmp_path / ".step-000003.77.tmp").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    assert checkpoint.latest(tmp_path / "nowhere") is None
    with pytest.raises(ValueError, match=r"state\.json is missing"):
        checkpoint.load(tmp_path / "step-000002")


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".step-000001.77.tmp").mkdir(parents=True)
    (tmp_path / ".step-000001.77.tmp" / "adapter.safetensors").write_bytes(b"half")
    checkpoint.save(tmp_path, 2, example(), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_tensors_that_cannot_be_written_are_an_os_error_with_the_folder(tmp_path):
    with pytest.raises(OSError, match=r"nowhere cannot be written to: .*No such file"):
        write_tensors(tmp_path / "nowhere" / "a.safetensors", {"a": torch.ones(1)})


def test_another_version_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 1, example(), keep=1)
    (path / "state.json").write_text('{"version": 99}')
    with pytest.raises(ValueError, match="version 99"):
        checkpoint.load(path)


def test_optimizer_state_survives_by_parameter_name():
    def build():
        parameters = {"a": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.ones(2))}
        return parameters, torch.optim.AdamW(parameters.values(), lr=0.1)

    def advance(parameters, optimizer):
        for name, value in parameters.items():
            value.grad = torch.full_like(value, 1.0 if name == "a" else -2.0)
        optimizer.step()

    ours, optimizer = build()
    advance(ours, optimizer)
    theirs, other = build()
    with torch.no_grad():
        for name in ours:
            theirs[name].copy_(ours[name])
    checkpoint.load_optimizer(other, ["a", "b"], checkpoint.optimizer_tensors(optimizer, ["a", "b"]))
    advance(ours, optimizer)
    advance(theirs, other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_replacing_puts_a_file_in_place_only_when_it_is_complete(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_lines_after_the_checkpoint_and_a_torn_last_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    _truncate(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
