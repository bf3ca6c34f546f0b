"""Any number of models in one comparison: checkpoints of a run, other noise, several processes, prompts
with gaps.
"""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from eval.__main__ import main
from eval.compare import run
from eval.config import CompareConfig, ModelSpec, Probe, Sampling
from eval.contenders import checkpoint_loras, find_contenders
from eval.metrics import Bootstrap
from flow_grpo import checkpoint
from flow_grpo.checkpoint import Checkpoint
from flow_grpo.config import RewardConfig
from flow_grpo.policy.lora_files import read_adapter
from tests.tiny import tiny_prompts

ROOT = Path(__file__).resolve().parents[2]
REWARD = RewardConfig(weights={"colourfulness": 1.0}, scorers=[{"name": "pixels"}])
SMALL = Sampling(num_steps=2, height=32, width=32, max_sequence_length=32)


def training_run(folder: Path, lora: Path, steps: tuple[int, ...], alpha: float = 8.0) -> Path:
    """A run's folder with checkpoints whose averaged adapter is that LoRA times the step over ten."""
    adapter = read_adapter(lora)
    rank = adapter.ranks[0]
    for step in steps:
        tensors = {}
        for layer, (a, b) in adapter.layers.items():
            tensors[f"{layer}.lora_A.default.weight"] = a
            # In a checkpoint alpha / rank is not in B.
            tensors[f"{layer}.lora_B.default.weight"] = b * (step / 10) / (alpha / rank)
        current = {name: value * 2 for name, value in tensors.items()}
        checkpoint.save(folder / "checkpoints", step, Checkpoint({"ema": tensors, "adapter": current}, {}), 9)
    shutil.copy(lora / "pytorch_lora_weights.safetensors", folder)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"lora": {"rank": rank, "alpha": alpha}}}))
    return folder


@pytest.fixture
def config(flux: Path, tmp_path: Path) -> Callable[..., CompareConfig]:
    def make(**changes: object) -> CompareConfig:
        options: dict = {
            "model": str(flux),
            "prompts": str(tiny_prompts(tmp_path / "prompts.txt")),
            "out": str(tmp_path / "out"),
            "members": 2,
            "batch_size": 1,
            "sampling": SMALL,
            "reward": REWARD,
            "bootstrap": Bootstrap(resamples=100),
        }
        return CompareConfig(**{**options, **changes})

    return make


def test_a_checkpoint_is_the_averaged_adapter_with_its_scale(lora: Path, tmp_path: Path):
    folder = training_run(tmp_path / "run", lora, (10, 20))
    spec = ModelSpec("run", run_dir=str(folder), steps="all")
    files = checkpoint_loras(spec, tmp_path / "adapters")
    assert list(files) == [10, 20]
    expected = read_adapter(lora)
    for step, factor in ((10, 1.0), (20, 2.0)):
        found = read_adapter(files[step])
        for layer, (a, b) in expected.layers.items():
            assert torch.allclose(found.layers[layer][1] @ found.layers[layer][0], factor * b @ a, atol=1e-5)
    current = ModelSpec("now", run_dir=str(folder), steps=[10], weights="current")
    layer, (_, b) = next(iter(expected.layers.items()))
    found = read_adapter(checkpoint_loras(current, tmp_path / "adapters")[10])
    assert torch.allclose(found.layers[layer][1], 2 * b, atol=1e-5)


def test_a_checkpoint_that_the_run_removed_is_remembered(lora: Path, tmp_path: Path):
    folder = training_run(tmp_path / "run", lora, (10, 20))
    spec = ModelSpec("run", run_dir=str(folder), steps="all")
    checkpoint_loras(spec, tmp_path / "adapters")
    shutil.rmtree(folder / "checkpoints" / "step-000010")
    assert list(checkpoint_loras(spec, tmp_path / "adapters")) == [10, 20]
    assert list(checkpoint_loras(spec, tmp_path / "other")) == [20]
    # Of another run, or other weights of the same, what was written out is not taken.
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert list(
        checkpoint_loras(ModelSpec("run", run_dir=str(moved), steps="all"), tmp_path / "adapters")
    ) == [20]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"steps": [10, 15]}, r"no checkpoint of step 15, only of \[10\]"),
        ({"run_dir": "{tmp}", "steps": "all"}, "has no checkpoint yet"),
        ({"run_dir": "{tmp}/bare", "steps": "all"}, "config.yaml does not say model.lora.rank"),
        ({"run_dir": "{tmp}/nowhere"}, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_compared_is_named(lora: Path, tmp_path: Path, spec: dict, message: str):
    training_run(tmp_path / "run", lora, (10,))
    shutil.copytree(tmp_path / "run", tmp_path / "bare")
    (tmp_path / "bare" / "config.yaml").unlink()
    options = {"run_dir": "{tmp}/run"} | spec
    options["run_dir"] = options["run_dir"].format(tmp=tmp_path)
    with pytest.raises(ValueError, match=message):
        find_contenders([ModelSpec("base"), ModelSpec("run", **options)], "model", tmp_path / "out")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([ModelSpec("one")], "one entry; name the reference"),
        ([ModelSpec("one"), ModelSpec("ONE", lora="x")], "'one' stands there twice"),
    ],
)
def test_models_that_do_not_go_together_are_refused(models: list[ModelSpec], message: str):
    with pytest.raises(ValueError, match=message):
        CompareConfig(models=models)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "becomes a folder"),
        ({"lora": "a", "run_dir": "b"}, "both lora and run_dir"),
        ({"steps": "all"}, "steps but no run_dir"),
    ],
)
def test_a_model_that_says_two_things_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ModelSpec(**options)


def test_steps_of_a_run_are_compared_with_its_base(
    config: Callable[..., CompareConfig], lora: Path, tmp_path: Path
):
    folder = training_run(tmp_path / "run", lora, (5, 10))
    record = run(config(run_dir=str(folder), steps="all"))
    assert [(m["name"], m["step"]) for m in record["models"]] == [
        ("base", None),
        ("step@5", 5),
        ("step@10", 10),
        ("tuned", None),
    ]
    assert [c["model"] for c in record["comparisons"]] == ["step@5", "step@10", "tuned"]
    # Step 10 has the very weights of the exported LoRA, and all start from the same noise; where weights lie
    # in memory may still move a pixel by one.
    for sample in record["samples"]:
        exported = pytest.approx(sample["sides"]["tuned"]["scores"], rel=1e-3, abs=1e-3)
        assert sample["sides"]["step@10"]["scores"] == exported
        assert sample["sides"]["step@5"]["scores"] != exported
        assert (
            sample["sides"]["base"]["distance"]["pixels"]
            == 0
            < sample["sides"]["tuned"]["distance"]["pixels"]
        )
    out = tmp_path / "out"
    assert "From checkpoint to checkpoint" in (out / "report.html").read_text()
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert len(rows) == 4 * 4 * (5 + 1)  # pictures, models; reward and four statistics, and the distance
    first = next(r for r in rows if (r["model"], r["metric"]) == ("tuned", "saturation"))
    sides = record["samples"][0]["sides"]
    value, reference = (sides[name]["scores"]["saturation"] for name in ("tuned", "base"))
    assert (float(first["value"]), float(first["reference"])) == (value, reference)
    assert float(first["difference"]) == pytest.approx(value - reference, abs=1e-4)


def test_other_noise_gives_other_pictures_of_the_same_weights(config: Callable[..., CompareConfig]):
    models = [ModelSpec("base"), ModelSpec("again"), ModelSpec("other noise", seed=5)]
    record = run(config(models=models, probe=Probe(0)))
    for sample in record["samples"]:
        assert sample["sides"]["again"]["distance"]["pixels"] == 0.0
        assert sample["sides"]["other noise"]["distance"]["pixels"] > 1.0
    assert "velocity_norm" not in record["comparisons"][-1]["summary"]


def without(record: dict[str, Any]) -> dict[str, Any]:
    """What two records of the same comparison share."""
    settings = {k: v for k, v in record["settings"].items() if k != "out"}
    models = [{k: v for k, v in model.items() if k != "lora"} for model in record["models"]]
    return {**record, "created": None, "settings": settings, "models": models}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_find_what_one_does(
    config: Callable[..., CompareConfig], flux: Path, lora: Path, tmp_path: Path
):
    folder = training_run(tmp_path / "run", lora, (5,))
    prompts = tiny_prompts(tmp_path / "prompts.txt", ["a red apple", "a blue boat", "a cat"])
    file = tmp_path / "compare.yaml"
    values = {
        "model": str(flux),
        "prompts": str(prompts),
        "run_dir": str(folder),
        "steps": [5],
        "members": 1,
        "batch_size": 1,
        "sampling": vars(SMALL),
        "reward": {"weights": {"colourfulness": 1.0}, "scorers": [{"name": "pixels"}]},
        "bootstrap": {"resamples": 100},
        "device": "cpu",
    }
    file.write_text(yaml.safe_dump(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--main_process_port", port, "-m", "eval", "compare"]
    command += ["--config", str(file), "--out", str(tmp_path / "two")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("report   ") == 1  # the first process alone speaks
    two = json.loads((tmp_path / "two" / "results.json").read_text())

    assert main(["compare", "--config", str(file), "--out", str(tmp_path / "one")]) == 0
    one = json.loads((tmp_path / "one" / "results.json").read_text())
    assert without(one) == without(two)
    assert np.isfinite(list(one["prompts"][0]["velocity_norm"].values())).all()
    pictures = [sorted((tmp_path / name / "gallery" / "images").rglob("*")) for name in ("one", "two")]
    assert [p.name for p in pictures[0] if p.suffix == ".png"] == [
        p.name for p in pictures[1] if p.suffix == ".png"
    ]
    # Pictures of two processes are found again by one.
    times = {p: p.stat().st_mtime_ns for p in pictures[1] if p.suffix == ".png"}
    assert main(["compare", "--config", str(file), "--out", str(tmp_path / "two")]) == 0
    assert {p: p.stat().st_mtime_ns for p in times} == times
