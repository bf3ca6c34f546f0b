"""The whole loop on a tiny FLUX: it learns, records, resumes to the bit, and survives its reward server."""

import json
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import flow_grpo.launch
import flow_grpo.train
from flow_grpo.ema import EMA
from flow_grpo.policy.flux import FluxPolicy
from flow_grpo.train import main
from flow_grpo.validate import Validation
from reward_plugin.errors import ServerUnavailable
from reward_plugin.types import ScoreTable
from tests.flow_grpo.interrupted import Interrupted
from tests.tiny import tiny_flux


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def checkpoint_bytes(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step-{step:06d}"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def final_adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "checkpoints").iterdir())[-1] / "adapter.safetensors")


def unavailable(*_):
    future: Future[ScoreTable] = Future()
    future.set_exception(ServerUnavailable("reward server http://127.0.0.1:1 gave no usable answer"))
    return future


def test_a_run_leaves_its_whole_record(arguments, tmp_path):
    assert main(arguments(log__samples_every=1, checkpoint__keep=1)) == 0
    run = tmp_path / "run"
    metrics, validation = lines(run / "metrics.jsonl"), lines(run / "eval.jsonl")
    assert [row["step"] for row in metrics] == [1, 2] and [row["step"] for row in validation] == [0, 2]
    expected = {
        "reward",
        "reward/colourfulness",
        "sharpness",
        "dead_groups",
        "missing",
        "clip_fraction",
        "seconds",
    }
    assert expected <= set(metrics[0])
    assert metrics[0]["reward"] == metrics[0]["reward/colourfulness"]
    assert {"reward", "colourfulness", "sharpness"} <= set(validation[0])
    assert "diffusers" in json.loads((run / "versions.json").read_text())
    assert (run / "config.yaml").is_file() and (run / "pytorch_lora_weights.safetensors").is_file()
    assert len(list((run / "samples").glob("step-*.png"))) == 2
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]


@pytest.mark.slow
def test_training_moves_the_pictures_the_way_the_reward_points(arguments, tmp_path):
    ends = {}
    for sign in (1, -1):
        run = tmp_path / str(sign)
        options = {
            "run_dir": run,
            "iterations": 20,
            "reward.weights": f"{{colourfulness: {sign}}}",
            "prompts.group_size": 32,
            "sampler.num_steps": 2,  # one stochastic step: what it adds is what the picture shows
            "sampler.window.kind": "all",
            "sampler.noise_level": 0.9,
            "sampler.chunk": 64,
            "optimizer.lr": 0.03,
            "optimizer.ema_decay": 0,
            "optimizer.micro_batch": 64,
            "validation.every": 20,
            "validation.members": 8,
            "checkpoint.every": 20,
        }
        assert main(arguments(**options)) == 0
        before, after = lines(run / "eval.jsonl")
        ends[sign] = after["colourfulness"]
        assert after["reward"] > before["reward"]
    assert ends[1] - ends[-1] > 2


def test_the_first_update_has_ratio_one_whatever_the_batch_shapes(arguments, tmp_path):
    options = {"sampler.chunk": 8, "optimizer.micro_batch": 3, "optimizer.updates_per_rollout": 2}
    assert main(arguments(**options)) == 0
    for row in lines(tmp_path / "run" / "metrics.jsonl"):
        # rollout_drift is |ratio - 1| of the first update from the stored log-probabilities themselves.
        assert row["rollout_drift"] <= 1e-6
        assert row["ratio_error"] > row["rollout_drift"]  # the second update has moved


def test_resuming_equals_not_stopping_to_the_bit(arguments, tmp_path):
    options = {"optimizer.updates_per_rollout": 2, "optimizer.warmup": 5, "checkpoint.keep": 9}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(arguments(run_dir=straight, iterations=4, **options)) == 0
    assert main(arguments(run_dir=broken, iterations=2, **options)) == 0
    assert main(arguments(run_dir=broken, iterations=4, **options)) == 0
    ours, theirs = checkpoint_bytes(straight, 4), checkpoint_bytes(broken, 4)
    assert set(ours) == {f"{n}.safetensors" for n in ("adapter", "best", "ema", "optimizer", "random")} | {
        "state.json"
    }
    assert all(ours[name] == theirs[name] for name in ours)
    timeless = [
        [
            {k: v for k, v in row.items() if not k.startswith("seconds")}
            for row in lines(run / "metrics.jsonl")
        ]
        for run in (straight, broken)
    ]
    assert timeless[0] == timeless[1]
    assert lines(straight / "eval.jsonl") == lines(broken / "eval.jsonl")
    # Going back to an older checkpoint gives the same end again, and the record of what was redone is not
    # doubled.
    older = str(broken / "checkpoints" / "step-000003")
    assert main([*arguments(run_dir=broken, iterations=4, **options), "--resume", older]) == 0
    assert checkpoint_bytes(broken, 4)["adapter.safetensors"] == ours["adapter.safetensors"]
    assert [row["step"] for row in lines(broken / "metrics.jsonl")] == [1, 2, 3, 4]


def test_resuming_refuses_what_does_not_belong_together(arguments, tmp_path, capsys):
    assert main(arguments(iterations=1)) == 0
    for key, value, text in [
        ("model.path", tiny_flux(tmp_path / "other", seed=1), "model.path (weights) is not"),
        ("seed", 1, "seed is not what this run began with"),
        ("prompts.train", tmp_path / "held_out.txt", "prompts.train (content) is not"),
        ("model.lora.rank", 2, "model.lora.rank differs"),
    ]:
        assert main(arguments(**{key: value})) == 1
        assert text in capsys.readouterr().err
    assert main([*arguments(), "--resume", "none"]) == 1
    assert "which holds a run" in capsys.readouterr().err
    assert main([*arguments(), "--resume", str(tmp_path)]) == 1
    assert "which is no checkpoint" in capsys.readouterr().err


def test_an_outage_saves_the_last_completed_iteration_and_tells_how_to_go_on(
    arguments, tmp_path, capsys, monkeypatch
):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    options = {"iterations": 3, "checkpoint.every": 100, "validation.every": 100}
    with monkeypatch.context() as patch:
        # Validation takes one call, an iteration two: the server goes away within the second iteration.
        patch.setattr(flow_grpo.launch, "build_rewards", lambda config: Interrupted(config, 4, unavailable))
        assert main(arguments(**options)) == 1
    message = capsys.readouterr().err
    assert "gave no usable answer" in message and "--resume auto" in message and "step-000001" in message
    assert main(arguments(**options)) == 0
    assert main(arguments(run_dir=undisturbed, **options)) == 0
    assert (
        checkpoint_bytes(run, 3)["adapter.safetensors"]
        == checkpoint_bytes(undisturbed, 3)["adapter.safetensors"]
    )


@pytest.mark.parametrize("calls", [0, 3])
def test_an_outage_during_validation_makes_it_up_on_resuming(arguments, tmp_path, capsys, monkeypatch, calls):
    """Calls: one for validation 0, two for iteration 1, one for validation 1."""
    options = {"iterations": 2, "validation.every": 1, "stop.metric": "sharpness"}
    with monkeypatch.context() as patch:
        patch.setattr(
            flow_grpo.launch, "build_rewards", lambda config: Interrupted(config, calls, unavailable)
        )
        assert main(arguments(**options)) == 1
    assert main(arguments(**options)) == 0
    assert [row["step"] for row in lines(tmp_path / "run" / "eval.jsonl")] == [0, 1, 2]
    assert [row["step"] for row in lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_a_server_that_is_down_at_the_start_is_one_message(arguments, tmp_path, capsys):
    options = {"reward.scorers": "null", "reward.url": "http://127.0.0.1:9", "reward.ready_timeout": 0.2}
    assert main(arguments(**options)) == 1
    assert "http://127.0.0.1:9 was not ready" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_missing_scores_are_left_out_and_counted(arguments, tmp_path, monkeypatch, capsys):
    def spoil(inner, images, prompts):
        table = inner.score(images, prompts)
        values = table.values.copy()
        values[0] = np.nan
        future: Future[ScoreTable] = Future()
        future.set_result(ScoreTable(table.dimensions, values, ("spoilt", *table.errors[1:])))
        return future

    monkeypatch.setattr(flow_grpo.launch, "build_rewards", lambda config: Interrupted(config, 0, spoil))
    assert main(arguments()) == 0
    assert "2 of 8 pictures have no reward; the first: spoilt" in capsys.readouterr().out
    for row in lines(tmp_path / "run" / "metrics.jsonl"):
        assert row["missing"] == 2 and np.isfinite(row["reward"]) and np.isfinite(row["loss"])
    assert all(value.isfinite().all() for value in final_adapter(tmp_path / "run").values())


def test_a_scorer_that_fails_on_every_picture_stops_the_run_with_its_reason(
    arguments, tmp_path, monkeypatch, capsys
):
    def fail(inner, images, prompts):
        table = inner.score(images, prompts)
        future: Future[ScoreTable] = Future()
        errors = ("the scorer ran out of memory",) * len(table)
        future.set_result(ScoreTable(table.dimensions, np.full_like(table.values, np.nan), errors))
        return future

    # Validation takes one call, an iteration two.
    monkeypatch.setattr(flow_grpo.launch, "build_rewards", lambda config: Interrupted(config, 3, fail))
    assert main(arguments(iterations=9, validation__every=9)) == 1
    message = capsys.readouterr().err
    assert "none of 8 pictures has a reward; the first reason: the scorer ran out of memory" in message
    assert "step-000001" in message
    assert [row["step"] for row in lines(tmp_path / "run" / "metrics.jsonl")] == [1]


def test_a_run_directory_that_cannot_be_written_is_one_message(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(arguments(run_dir=tmp_path / "file" / "run")) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("flow_grpo.train: error:") and str(tmp_path / "file") in message


def test_dimensions_without_a_weight_never_enter_the_reward(arguments, tmp_path):
    runs = []
    for name, weights in (("a", "{colourfulness: 1.0}"), ("b", "{colourfulness: 1.0, sharpness: 0.0}")):
        assert main(arguments(run_dir=tmp_path / name, **{"reward.weights": weights})) == 0
        runs.append(final_adapter(tmp_path / name))
        row = lines(tmp_path / name / "metrics.jsonl")[0]
        assert "sharpness" in row and "reward/sharpness" not in row
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def count_calls(monkeypatch, owner, name) -> list[int]:
    """Let a method go on as before and note each call."""
    calls: list[int] = []
    original = getattr(owner, name)

    def counted(*args, **options):
        calls.append(1)
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_micro_batches_and_chunks_change_nothing_but_rounding(arguments, tmp_path, monkeypatch):
    updates = count_calls(monkeypatch, EMA, "update")
    shapes = {"whole": (8, 64), "pieces": (3, 5)}
    for name, (chunk, micro_batch) in shapes.items():
        options = {
            "sampler.chunk": chunk,
            "optimizer.micro_batch": micro_batch,
            "optimizer.updates_per_rollout": 2,
        }
        assert main(arguments(run_dir=tmp_path / name, **options)) == 0
    assert len(updates) == 2 * 2 * 2  # runs, iterations, updates: the average moves once per optimizer step
    whole, pieces = (load_file(tmp_path / n / "checkpoints/step-000002/ema.safetensors") for n in shapes)
    moved = max(value.abs().max() for key, value in whole.items() if "lora_B" in key)
    assert moved > 1e-5
    assert max((whole[key] - pieces[key]).abs().max() for key in whole) < 0.02 * moved


def test_the_reference_is_not_evaluated_unless_a_term_needs_it(arguments, monkeypatch):
    entered = count_calls(monkeypatch, FluxPolicy, "reference")
    assert main(arguments(iterations=1)) == 0 and not entered
    assert main(arguments(iterations=2, regularizer__kl_weight=0.1)) == 0
    assert len(entered) == 1  # once per rollout


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "guard", "optimizer.updates_per_rollout": 2},
        {"sampler.kind": "cps"},
        {"sampler.kind": "dance_sde", "advantage.aggregation": "normalize_then_sum"},
        {"model.dtype": "bfloat16", "model.gradient_checkpointing": "true", "advantage.std": "batch"},
    ],
    ids=["guard", "cps", "dance_sde-gdpo", "bf16-checkpointing"],
)
def test_every_sampler_and_objective_trains(arguments, tmp_path, options):
    assert main(arguments(iterations=1, **options)) == 0
    row = lines(tmp_path / "run" / "metrics.jsonl")[0]
    assert np.isfinite(row["loss"]) and row["grad_norm"] > 0


def test_equal_texts_stay_separate_groups_with_their_own_noise(arguments, tmp_path, capsys):
    prompts = tmp_path / "twice.txt"
    prompts.write_text("a red apple\na red apple\n")
    assert main(arguments(**{"prompts.train": prompts})) == 1
    assert "twice.txt" in capsys.readouterr().err
    options = {"prompts.train": prompts, "prompts.allow_duplicates": "true", "log.samples_every": 1}
    assert main(arguments(iterations=1, **options)) == 0
    from PIL import Image

    sheet = np.asarray(Image.open(tmp_path / "run" / "samples" / "step-000001.png"))
    assert sheet.shape == (64, 128, 3) and not np.array_equal(sheet[:32], sheet[32:])


def test_the_run_stops_when_the_bound_is_broken_and_keeps_the_best_allowed_weights(
    arguments, tmp_path, capsys, monkeypatch
):
    means = iter([(10.0, 30.0), (12.0, 29.9), (14.0, 29.0), (16.0, 28.0)])  # reward, adherence

    def validate(*_):
        reward, adherence = next(means)
        return Validation({"reward": reward, "sharpness": adherence})

    monkeypatch.setattr(flow_grpo.train, "validate", validate)
    options = {"iterations": 9, "validation.every": 1, "stop.metric": "sharpness", "checkpoint.keep": 9}
    assert main(arguments(**options)) == 0
    run = tmp_path / "run"
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2, 3]
    assert "stopped at iteration 3" in capsys.readouterr().out
    exported = load_file(run / "pytorch_lora_weights.safetensors")
    kept = load_file(run / "checkpoints" / "step-000001" / "ema.safetensors")
    for name, value in kept.items():
        key = "transformer." + name.replace(".default.", ".")
        factor = 2.0 if "lora_B" in name else 1.0  # alpha / rank
        assert torch.equal(exported[key], value * factor)


def test_a_dimension_that_no_scorer_gives_is_refused_before_the_model_loads(arguments, capsys):
    assert main(arguments(**{"reward.weights": "{iaa: 1.0}"})) == 1
    assert "reward.weights.iaa: no scorer gives 'iaa'; known: colourfulness" in capsys.readouterr().err
    assert main(arguments(**{"stop.metric": "adherence"})) == 1
    assert "stop.metric: no scorer gives 'adherence'" in capsys.readouterr().err
    assert main(arguments(**{"stop.floors": "{iqa: 0.0}"})) == 1
    assert "stop.floors.iqa: no scorer gives 'iqa'" in capsys.readouterr().err


@pytest.mark.parametrize("content, text", [("", "holds no prompt"), (None, "does not exist")])
def test_empty_or_missing_prompts_are_named(arguments, tmp_path, capsys, content, text):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_text(content)
    assert main(arguments(**{"prompts.train": path})) == 1
    message = capsys.readouterr().err
    assert "p.txt" in message and text in message and len(message.splitlines()) == 1


def test_a_missing_model_is_named(arguments, tmp_path, capsys):
    assert main(arguments(**{"model.path": tmp_path / "no" / "model"})) == 1
    assert "model.path is" in capsys.readouterr().err
