"""Where an iteration's time goes is told each time, and its share of a known GPU's peak."""

import json
from types import SimpleNamespace

import pytest
import torch

from flow_grpo.cli import parse
from flow_grpo.cost import GPUS, Shape
from flow_grpo.plan import make_plan
from flow_grpo.speed import ideal_seconds, known_gpu, phase_line, phases
from flow_grpo.train import main


def test_every_iteration_tells_its_phases_and_they_are_all_of_it(arguments, tmp_path, capsys):
    assert main(arguments()) == 0
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        named = [
            row[f"seconds/{name}"] for name in ("encode", "sample", "decode", "score_wait", "train", "other")
        ]
        assert sum(named) == pytest.approx(row["seconds"], abs=0.01) and min(named) >= 0
        assert "mfu" not in row  # a CPU's peak is not known
        assert row["seconds/train"] > 0.1 * row["seconds"]
    assert phase_line(row) in capsys.readouterr().err


def test_the_rest_of_an_iteration_is_what_no_phase_has():
    seconds = phases({"sample": 2.0, "decode": 0.5}, train=3.0, total=7.0, also=1.0)
    assert seconds == {"sample": 2.0, "decode": 0.5, "train": 3.0, "other": 0.5, "": 7.0}


@pytest.mark.parametrize(
    "name, key",
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_gpus_are_known_by_what_their_driver_calls_them(name, key):
    assert known_gpu(name) is GPUS[key]


@pytest.mark.parametrize("name", ["NVIDIA L40", "AMD Instinct MI300X", "NVIDIA GeForce RTX 5090"])
def test_a_gpu_that_is_not_in_the_list_has_no_utilisation(name):
    assert known_gpu(name) is None


def test_the_ideal_time_is_the_plans_work_at_the_peak_of_all_gpus(arguments, monkeypatch):
    config = parse(arguments(model__path="nobody/nothing", model__height=512, model__width=512)).config
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    seconds = [
        ideal_seconds(config, SimpleNamespace(device=torch.device("cuda"), num_processes=count))
        for count in (1, 2)
    ]
    pflop = make_plan(config, Shape(), 1).pflop
    assert seconds == pytest.approx([pflop / 0.989, pflop / 0.989 / 2])
