"""UniSim's training, on the pocket CLIP: what trains, how a run ends and goes on, what it writes."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reward_plugin.scorers.clip_folder import load_model, load_processing
from reward_plugin.train_unisim import main
from reward_plugin.unisim.adapter import merge_adapter
from reward_plugin.unisim.layout import apply, apply_file
from tests.flow_grpo.ranks import group
from tests.reward.unisim_questions import TASKS, config_file, sources, write_questions

CLIP = Path("pocket/weights/clip")
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions"), train=8, test=6)


@pytest.fixture(scope="module")
def arguments(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Arguments:
    """The command line of a run of four steps of four questions of each task."""
    file = config_file(
        tmp_path_factory.mktemp("config") / "small.yaml",
        run_dir="unused",
        steps=4,
        model={"path": str(CLIP), "dtype": "float32", "lora": {"rank": 4, "alpha": 8}},
        data={"train": sources(questions, "train"), "batch": 4, "workers": 2},
        optimizer={"lr": 1e-3, "min_lr": 1e-4, "warmup": 2, "weight_decay": 0.1},
        validation={"questions": sources(questions, "test", "ladder", "place"), "every": 2},
        checkpoint={"every": 1, "keep": 9},
        export=[],
    )

    def build(run_dir: Path, **options: Any) -> list[str]:
        flags = [
            part
            for key, value in options.items()
            for part in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
        ]
        return ["--config", str(file), "--run_dir", str(run_dir), *flags]

    return build


@pytest.fixture(scope="module")
def undisturbed(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(arguments(run, export=["peft", "merged", "published"])) == 0
    return run


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Lines of the record without what a clock says."""
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def weights(run: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:06d}/trainable.safetensors")


def assert_same(one: Path, other: Path) -> None:
    """Two runs that are equal to the bit."""
    for name in ("trainable", "optimizer"):
        left, right = (load_file(run / f"checkpoints/step-000004/{name}.safetensors") for run in (one, other))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert rows(one, name) == rows(other, name) != []


def assert_close(one: Path, other: Path) -> None:
    """Two runs whose weights differ by rounding, which AdamW enlarges where a gradient is hardly any."""
    ours, theirs = weights(one, 2), weights(other, 2)
    moved = max(float(value.abs().max()) for name, value in theirs.items() if "lora_B" in name)
    assert moved > 1e-4
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 0.02 * moved


def test_a_run_records_what_it_did(undisturbed: Path):
    assert [row["step"] for row in rows(undisturbed)] == [1, 2, 3, 4]
    assert [row["step"] for row in rows(undisturbed, "eval.jsonl")] == [0, 2, 4]
    first = rows(undisturbed)[0]
    assert first["loss"] == pytest.approx(sum(first[f"loss/{task}"] for task in TASKS))
    assert json.loads((undisturbed / "versions.json").read_text())["torch"] == torch.__version__
    assert "alpha: 8" in (undisturbed / "config.yaml").read_text()


def test_the_first_step_is_as_long_as_the_rate_of_the_warm_up(undisturbed: Path):
    first = rows(undisturbed)[0]
    assert first["lr"] == pytest.approx(0.5e-3)  # the first of two steps of warm-up to 1e-3
    # Adam's first step is the rate wherever there is a gradient, and these weights begin at 0.
    ups = [value for name, value in weights(undisturbed, 1).items() if "lora_B" in name]
    assert max(float(value.abs().max()) for value in ups) == pytest.approx(first["lr"], rel=0.01)


def test_adapters_and_projection_train_and_nothing_else(undisturbed: Path):
    before, after = weights(undisturbed, 1), weights(undisturbed, 4)
    adapters = [name for name in after if "visual_projection" not in name]
    assert len(adapters) == len(after) - 1
    assert all(".vision_model." in name and "lora_" in name for name in adapters)
    assert sum("lora_A" in name for name in after) == 4 * 6  # layers, and of each q, k, v, out, fc1, fc2
    assert all(not torch.equal(before[name], after[name]) for name in after)


def test_frozen_weights_are_those_of_the_base_to_the_bit(undisturbed: Path):
    base = load_file(CLIP / "model.safetensors")
    merged = load_file(undisturbed / "export/merged/model.safetensors")
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    layers = {f"vision_model.encoder.layers.{i}" for i in range(4)}
    inner = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        "mlp.fc1",
        "mlp.fc2",
    )
    assert moved == {f"{layer}.{name}.weight" for layer in layers for name in inner} | {
        "visual_projection.weight"
    }


def test_a_locked_projection_stays(arguments: Arguments, tmp_path: Path):
    options = {"model.train_projection": False, "model.lora.targets": ["q_proj"], "steps": 1}
    assert main(arguments(tmp_path, **options)) == 0
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in weights(tmp_path, 1)} == {"q_proj"}


def test_a_resumed_run_is_the_undisturbed_one(undisturbed: Path, arguments: Arguments, tmp_path: Path):
    shutil.copytree(undisturbed, tmp_path / "run")
    for step in (3, 4):
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step:06d}")
    (tmp_path / "run/checkpoints/.step-000003.1.tmp").mkdir()  # what a killed process leaves
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert main(arguments(tmp_path / "run")) == 0
    assert_same(undisturbed, tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


def test_a_signal_ends_a_run_with_a_checkpoint(
    undisturbed: Path, arguments: Arguments, tmp_path: Path, capsys
):
    """The signal comes after the first step, somewhere; the run goes on as if none had."""

    def interrupt() -> None:
        while not (tmp_path / "metrics.jsonl").is_file():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    code = main(arguments(tmp_path, **{"checkpoint.every": 100}))
    thread.join()
    assert code == 75
    assert "asked to stop by SIGTERM" in capsys.readouterr().err
    assert 1 <= rows(tmp_path)[-1]["step"] < 4
    assert main(arguments(tmp_path)) == 0
    assert_same(undisturbed, tmp_path)


def run_and_end(command: list[str]) -> None:
    """Run this command in a process that `group` has forked, instead of the other trainer's."""
    sys.exit(main(command))


def test_two_processes_make_the_update_of_one(arguments: Arguments, tmp_path: Path):
    options = {"model.lora.dropout": 0.0, "steps": 2}
    for reduction in ("sum", "mean"):
        alone, two = tmp_path / f"{reduction}-alone", tmp_path / f"{reduction}-two"
        command = arguments(alone, **options, **{"loss.reduction": reduction})
        assert main(command) == 0
        command = arguments(two, **options, **{"loss.reduction": reduction})
        started = group(2, [], tmp_path / f"{reduction}-logs", before=partial(run_and_end, command))
        assert [process.wait() for process in started] == [0, 0], started[0].text()
        assert_close(two, alone)
        for left, right in zip(rows(two), rows(alone), strict=True):
            assert left == pytest.approx(right, rel=1e-4)
        assert rows(two, "eval.jsonl") == rows(alone, "eval.jsonl")


def test_micro_batches_make_the_update_of_one_pass(arguments: Arguments, tmp_path: Path):
    options = {"model.lora.dropout": 0.0, "steps": 2}
    assert main(arguments(tmp_path / "whole", **options)) == 0
    parts = {"optimizer.micro_batch": 3, "model.gradient_checkpointing": True}
    assert main(arguments(tmp_path / "parts", **options, **parts)) == 0
    assert_close(tmp_path / "parts", tmp_path / "whole")


def test_every_export_embeds_as_the_trained_model(undisturbed: Path, questions: Path):
    from peft import PeftModel
    from PIL import Image
    from transformers import CLIPModel

    _, processor = load_processing(CLIP)
    images = [Image.open(path) for path in sorted(questions.rglob("*.png"))[:6]]
    pixels = processor(images, return_tensors="pt").pixel_values

    def embed(clip: Any) -> torch.Tensor:
        with torch.no_grad():
            return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)

    def base() -> Any:
        return load_model(CLIPModel, CLIP, torch.float32)

    folder = undisturbed / "export"
    merged = embed(load_model(CLIPModel, folder / "merged", torch.float32))
    adapter = PeftModel.from_pretrained(base(), str(folder / "peft")).eval()
    by_hand = apply(base(), merge_adapter(base().state_dict(), folder / "peft"), "peft")
    for other in (adapter.get_base_model(), by_hand, apply_file(base(), folder / "published/unisim.pt")):
        torch.testing.assert_close(embed(other), merged, rtol=1e-5, atol=1e-5)
    assert (embed(base()) - merged).abs().max() > 1e-3


def test_a_picture_that_cannot_be_opened_is_left_out_and_named(
    questions: Path, arguments: Arguments, tmp_path: Path
):
    spoilt = Path(shutil.copytree(questions, tmp_path / "questions"))
    line = json.loads((spoilt / "train/iqa-ladder.jsonl").read_text().splitlines()[3])
    (spoilt / line["images"][1]).write_bytes(b"nothing")
    options = {"steps": 2, "data.train": sources(spoilt, "train", "ladder"), "validation.questions": {}}
    assert main(arguments(tmp_path / "run", **options)) == 0
    assert sum(row["missing"] for row in rows(tmp_path / "run")) == 1  # of eight questions, seen once
    (reason,) = rows(tmp_path / "run", "unreadable.jsonl")
    assert line["images"][1] in reason["reason"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer.learning_rate": 1}, "learning_rate"),
        ({"model.lora.targets": ["q"]}, "model.lora.targets is .'q'.: it must be some of q_proj"),
        ({"loss.reduction": "max"}, "reduction"),
        ({f"data.train.{task}": [] for task in TASKS}, "data.train is without a data set"),
        ({"optimizer.min_lr": 1.0}, "must not be above optimizer.lr"),
        ({"model.lora.dropout": 1.0}, "model.lora.dropout is 1.0"),
    ],
)
def test_a_wrong_key_ends_the_command_with_its_name(
    arguments: Arguments, tmp_path: Path, change: dict, message: str, capsys
):
    with pytest.raises(SystemExit, match="2"):
        main(arguments(tmp_path / "run", **change))
    from re import search

    assert search(message, capsys.readouterr().err)


@pytest.mark.parametrize("text", ["foo: {}", "model: {lora: {foo: {}}}", "seed: 1\noptimizer:"])
def test_what_jsonargparse_passes_over_is_refused(arguments: Arguments, tmp_path: Path, text: str, capsys):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([*arguments(tmp_path / "run"), "--config", str(tmp_path / "wrong.yaml")])
    error = capsys.readouterr().err
    assert "foo" in error or "optimizer is None, but it holds keys" in error


def test_another_model_seed_or_questions_do_not_go_on(
    undisturbed: Path, arguments: Arguments, tmp_path: Path, capsys
):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    assert main(arguments(run, seed=1)) == 1
    assert "seed is not what this run began with" in capsys.readouterr().err
    assert main(arguments(run, **{"model.lora.rank": 5})) == 1
    assert "model.lora, model.train_projection is not" in capsys.readouterr().err
    assert main([*arguments(run), "--resume", "none"]) == 1
    assert "holds a run" in capsys.readouterr().err
    assert main([*arguments(run), "--resume", str(tmp_path)]) == 1
    assert "is no checkpoint" in capsys.readouterr().err
    assert_same(undisturbed, run)


def test_a_dry_run_says_what_would_run(arguments: Arguments, tmp_path: Path, capsys):
    assert main([*arguments(tmp_path / "run"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "4 steps of 4 questions of each task, 1 process(es)" in told
    assert "severity (8), alike (8), redraw (8); seen 0.67 times" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_short_training_teaches_quality_and_places(tmp_path: Path):
    """Shapes that the pocket CLIP has never seen; other questions of the same kinds are asked afterwards."""
    names = ("redraw", "scene", "place", "intact")
    folder = write_questions(tmp_path / "questions", 240, 100, *names)
    file = config_file(
        tmp_path / "short.yaml",
        run_dir=str(tmp_path / "run"),
        steps=50,
        model={"path": str(CLIP), "dtype": "float32", "lora": {"dropout": 0.0}},
        data={"train": sources(folder, "train", *names), "batch": 6, "workers": 1},
        optimizer={"lr": 2e-3, "min_lr": 1e-4, "warmup": 5, "weight_decay": 0.01},
        validation={"questions": sources(folder, "test", *names), "every": 50},
        checkpoint={"every": 50, "keep": 1},
        export=[],
    )
    assert main(["--config", str(file)]) == 0
    before, after = rows(tmp_path / "run", "eval.jsonl")
    gained = {task: after[task] - before[task] for task in TASKS}
    assert gained["iqa"] > 0.08 and gained["text_2afc"] > 0.05, gained
    assert min(gained.values()) > -0.1 and after["mean"] > before["mean"] + 0.04, gained
