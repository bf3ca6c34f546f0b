"""Micro-batches sized by what fits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.cli import parse
from flow_grpo.policy.flux import FluxPolicy
from flow_grpo.policy.lora import LORA_FILE
from flow_grpo.policy.probe import FRACTION, REMEDY, WITHOUT_GPU, largest, line, settled, sizes
from flow_grpo.train import main


def test_sizes_grow_and_end_with_the_most():
    assert list(sizes(1)) == [1]
    assert list(sizes(2)) == [1, 2]
    assert list(sizes(20)) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert list(sizes(24)) == [1, 2, 3, 4, 6, 8, 12, 16, 24]


@pytest.mark.parametrize(
    "base, each, room, most, expected", [(30, 5, 80, 64, 8), (30, 5, 80, 7, 7), (1, 9, 10, 9, 1)]
)
def test_the_largest_size_within_the_room_is_taken(base, each, room, most, expected):
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return base + each * size <= room

    assert largest(fits, most, REMEDY) == expected
    assert tried == sorted(tried) and len([size for size in tried if size > expected]) <= 1


def test_where_the_base_is_split_sizes_are_reckoned_from_two_that_were_measured():
    assert [line(35.0, 40.0, size) for size in (1, 2, 9)] == [35, 40, 75]
    assert largest(lambda size: line(35.0, 40.0, size) <= 80, 64, REMEDY) == 8


def test_no_room_for_one_names_the_remedy():
    with pytest.raises(ValueError, match=r"no room for 1 example; .*model\.gradient_checkpointing to true"):
        largest(lambda _: False, 8, REMEDY)


def test_auto_on_a_cpu_trains_as_the_documented_number(arguments, tmp_path):
    runs = []
    for size in ("auto", WITHOUT_GPU):
        run = tmp_path / str(size)
        given = arguments(run_dir=run, optimizer__micro_batch=size, iterations=1, prompts__validation="null")
        assert main(given) == 0
        row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        kept = {key: value for key, value in row.items() if "seconds" not in key}
        runs.append((kept, {k: v.tolist() for k, v in load_file(run / LORA_FILE).items()}))
    assert runs[0] == runs[1]
    assert "micro_batch: auto" in (tmp_path / "auto" / "config.yaml").read_text()


def test_anything_else_that_is_no_number_is_refused(arguments, capsys):
    for wrong in ("automatic", "0"):
        with pytest.raises(SystemExit):
            parse(arguments(optimizer__micro_batch=wrong))
        assert "micro_batch" in capsys.readouterr().err


def test_a_dry_run_says_auto(arguments, capsys):
    assert main([*arguments(optimizer__micro_batch="auto"), "--dry-run"]) == 0
    assert "micro-batches sized by memory" in capsys.readouterr().out


def test_memory_that_runs_out_while_training_names_the_remedy(arguments, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(FluxPolicy, "velocity", full)
    assert main(arguments(prompts__validation="null")) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("flow_grpo.train: error: CUDA out of memory. To make room, lower optimizer.micro")
    assert "model.gradient_checkpointing" in told and told.endswith("from the last checkpoint.")


@pytest.mark.gpu
def test_the_probe_leaves_its_share_of_the_gpu_free_and_no_gradients(arguments):
    from accelerate import Accelerator

    from flow_grpo.policy import build_policy

    config = parse(arguments(optimizer__micro_batch="auto")).config
    policy, accelerator = build_policy(config.model, "cuda"), Accelerator()
    size = settled(config, policy, "a red apple", accelerator).optimizer.micro_batch
    assert size == 32, "everything an update has fits: 8 pictures of 4 steps"
    assert all(value.grad is None for value in policy.trainable.values())
    assert torch.cuda.max_memory_allocated() < FRACTION * torch.cuda.mem_get_info()[1]
