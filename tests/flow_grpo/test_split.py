"""A base split over processes by FSDP2: the same run as alone, each with its share, and an end for all."""

import json
import os
import re
import signal

import pytest
from safetensors.torch import load_file

from flow_grpo.train import main
from tests.flow_grpo.ranks import group
from tests.flow_grpo.test_distributed_ranks import assert_close, rows

pytestmark = pytest.mark.timeout(900)
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def test_two_processes(arguments, tmp_path):
    """Prompts and held-out prompts are no multiple of the processes; an epoch ends within the run."""
    (tmp_path / "three.txt").write_text("a red boat\na blue cat\na green apple\n")
    options = {
        "prompts.validation": tmp_path / "three.txt",
        "advantage.std": "batch",
        "optimizer.updates_per_rollout": 2,
        "optimizer.micro_batch": 3,
        "regularizer.kl_weight": 0.01,
        "validation.every": 1,
        "sampler.chunk": 1,
        "checkpoint.keep": 9,
    }
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert main(arguments(run_dir=alone, **{**options, "iterations": 2})) == 0
    both = group(2, arguments(run_dir=many, **options), tmp_path / "2", **FSDP)
    codes = [p.wait(60) for p in both]
    print(both[0].text()[-5000:])
    assert codes == [0] * 2
    assert_close(alone, many, step=2)
