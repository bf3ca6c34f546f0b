"""The report of --dry-run against known counts, and that it needs no model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow_grpo.cli import parse
from flow_grpo.cost import GPUS, Shape, forward_flop, lora_parameters, read_shape
from flow_grpo.plan import describe, make_plan
from flow_grpo.policy.flux import FluxPolicy
from flow_grpo.train import main

ROOT = Path(__file__).parents[2]


def test_one_flux_forward_at_512_is_21_5_tflop():
    assert forward_flop(Shape(), 1024 + 512) == pytest.approx(21.5e12, rel=0.01)


def test_an_image_of_the_recipe_is_0_35_pflop_without_checkpointing_and_kl():
    path = ROOT / "configs" / "flux_dev_unipercept.yaml"
    published = ["--model.gradient_checkpointing", "false", "--regularizer.kl_weight", "0"]
    published += ["--reward.constraints", "{}"]
    config = parse(["--config", str(path), *published]).config
    plan = make_plan(config, Shape())
    assert (plan.images, plan.forwards, plan.trained, plan.optimizer_steps) == (1152, 6912, 5760, 600)
    assert plan.pflop / plan.images == pytest.approx(0.354, rel=0.01)


def test_the_reference_and_checkpointing_cost_forwards(arguments):
    plain = make_plan(parse(arguments()).config, Shape())
    with_kl = make_plan(parse(arguments(regularizer__kl_weight=0.1)).config, Shape())
    checkpointed = make_plan(parse(arguments(model__gradient_checkpointing="true")).config, Shape())
    assert (plain.images, plain.forwards, plain.trained) == (8, 32, 16)
    assert with_kl.forwards == 32 + 16
    assert (
        checkpointed.pflop > plain.pflop and checkpointed.memory["activations"] < plain.memory["activations"]
    )


@pytest.mark.parametrize(
    "targets", ["null", "[attn.to_v, attn.to_out.0, ff.net.0.proj, ff.net.2]", "[to_k, proj_mlp, proj_out]"]
)
def test_trained_parameters_are_those_of_the_loaded_model(flux_path, arguments, targets):
    config = parse(arguments(**{"model.lora.targets": targets})).config
    policy, lora = FluxPolicy(config.model), config.model.lora
    shape = read_shape(str(flux_path))
    trained = sum(value.numel() for value in policy.trainable.values())
    assert lora_parameters(shape, lora.rank, lora.targets) == trained
    # The same from the sizes alone, as for a FLUX.1-dev that is not on this machine.
    assert lora_parameters(replace(shape, layers={}), lora.rank, lora.targets) == trained


def test_sizes_of_a_folder_are_those_of_the_loaded_model(flux_path, arguments):
    policy, shape = FluxPolicy(parse(arguments()).config.model), read_shape(str(flux_path))
    pipe, trained = policy.pipeline, sum(value.numel() for value in policy.trainable.values())
    assert shape.known and shape.channels == policy.latent_shape[1]
    for name, extra in (("transformer", trained), ("vae", 0), ("text_encoder", 0)):
        total = sum(value.numel() for value in getattr(pipe, name).parameters()) - extra
        assert shape.parameters[name] == pytest.approx(total, rel=0.01), name


def counts(arguments, **options):
    plan = make_plan(parse(arguments(**options)).config, Shape())
    return plan.forwards, plan.trained, plan.saved


def test_windows_that_move_are_counted_as_they_will_be(arguments):
    """8 pictures of 2 prompts, 4 steps."""
    options = {"sampler.window.size": 1, "sampler.window.kind": "progressive", "iterations": 4}
    assert counts(arguments, **options, **{"sampler.window.interval": 1}) == (32, 8, 0)
    # Step 1 has no noise, so a window of 2 steps trains 1, or 1, of them: the places are 0 and 1.
    options |= {
        "sampler.window.size": 2,
        "sampler.window.interval": 1,
        "sampler.steps": "{1: {noise_level: 0}}",
    }
    assert counts(arguments, **options) == (32, 8, 0)
    options["sampler.steps"] = "{0: {noise_level: 0}}"
    assert counts(arguments, **options) == (32, 8 * 1.5, 0)


def test_branching_saves_the_steps_that_a_group_shares(arguments):
    options = {"sampler.shared_noise": "true", "sampler.window.kind": "fixed", "sampler.window.start": 1}
    options["sampler.window.size"] = 1
    whole, trained, _ = counts(arguments, **options)
    # One step of 6 of the 8 pictures.
    assert counts(arguments, **options, **{"sampler.branch": "true"}) == (whole - 6, trained, 6)


def test_the_bases_pictures_for_constraints_count_as_forwards(arguments):
    """3 members of 2 groups, 4 steps; branched, 4 of these 6 share a step, and 6 of the run's own 8."""
    options: dict[str, Any] = {"reward.constraints": "{sharpness: {max_relative_drop: 0.1, base_members: 3}}"}
    options |= {"sampler.shared_noise": "true", "sampler.window.kind": "fixed", "sampler.window.start": 1}
    options["sampler.window.size"] = 1
    assert counts(arguments, **options) == (8 * 4 + 6 * 4, 8, 0)
    assert counts(arguments, **options, **{"sampler.branch": "true"}) == (8 * 4 + 6 * 4 - 6 - 4, 8, 10)


def test_nft_trains_on_noised_pictures_and_asks_its_old_policy_once(arguments):
    options = {"algorithm": "nft", "sampler.noise_level": 0}
    assert counts(arguments, **options) == (8 * 4 + 8 * 3, 8 * 3, 0)
    assert counts(arguments, **options, **{"nft.sigmas_per_image": 1}) == (8 * 4 + 8, 8, 0)


def test_members_left_out_are_not_trained(arguments):
    options = {"advantage.keep_best": 1, "advantage.keep_worst": 1}
    assert counts(arguments, **options) == (32, 8 * 2 / 2, 0)
    assert counts(arguments, **options, **{"regularizer.kl_weight": 1}) == (32 + 16, 16, 0)


def test_text_encoders_on_disk_take_no_memory(arguments, tmp_path):
    memory = [
        make_plan(parse(arguments(**options)).config, Shape()).memory["model"]
        for options in ({}, {"model.text_cache": tmp_path})
    ]
    assert memory[0] - memory[1] == pytest.approx(4.88e9 * 4 / 2**30)


def test_fsdp2_shares_the_transformer_out_and_zero2_gradients_and_optimizer(arguments):
    options = {"model.dtype": "bfloat16", "model.lora.rank": 64, "model.text_cache": "cache"}
    config, shape = parse(arguments(**options)).config, Shape()
    plans = {
        (split, number): make_plan(config, shape, number, split).memory
        for split in ("none", "fsdp2", "zero2")
        for number in (1, 8)
    }
    adapters = "adapters, their gradients, AdamW and averages"
    transformer, trained = 11.90e9 * 2 / 2**30, lora_parameters(shape, 64) * 4 / 2**30
    saved = plans["none", 8]["model"] - plans["fsdp2", 8]["model"]
    # Two of the largest blocks, 36 d² each, are there whole.
    assert saved == pytest.approx(transformer * 7 / 8 - 2 * 36 * 3072**2 * 2 / 2**30)
    assert plans["fsdp2", 8][adapters] == plans["none", 8][adapters] == pytest.approx(6 * trained)
    assert plans["zero2", 8]["model"] == plans["none", 8]["model"]
    assert plans["zero2", 8][adapters] == pytest.approx(3.5 * trained + 0.125)
    assert plans["none", 1][adapters] == plans["none", 8][adapters]


def test_the_command_reckons_with_processes_that_are_not_there(arguments, capsys, monkeypatch):
    given = [*arguments(prompts__per_iteration=4), "--dry-run", "--gpu", "h100"]
    assert main([*given, "--processes", "4", "--split", "fsdp2"]) == 0
    printed = capsys.readouterr().out
    assert "a process, fsdp2 over 4: model" in printed and "on 4 x h100" in printed
    for variable, split in (("ACCELERATE_USE_FSDP", "fsdp2"), ("ACCELERATE_USE_DEEPSPEED", "zero2")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "true")
            assert main([*given, "--processes", "2"]) == 0
        assert f"a process, {split} over 2: model" in capsys.readouterr().out
    assert main([*given, "--processes", "3"]) == 1 and "multiple of the 3 proc" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse([*given, "--processes", "0"])
    assert "--processes is 0: it must be at least 1" in capsys.readouterr().err


def test_time_follows_from_the_named_cards_peak_and_the_assumed_share(arguments):
    config = parse(arguments(**{"model.dtype": "bfloat16"})).config
    plan = make_plan(config, Shape())
    text = describe(config, 2, 6, 2, gpu="h200", mfu=0.5)
    line = next(line.split() for line in text.splitlines() if line.split()[0] == "time")
    peak = GPUS["h200"].tflops * 1e12
    shape = read_shape(config.model.path)
    seconds = make_plan(config, shape).pflop * 1e15 / (peak * 0.5 * 2)
    assert float(line[1]) == pytest.approx(seconds, rel=0.01) and plan.pflop > 0
    assert "2 x h200, assuming 50% of 989 TFLOP/s (dense bf16 peak)" in text and "fits its 131 GiB" in text
    assert "computed, nothing measured" in text
    assert "time" not in describe(config, 2, 6, 2)


def test_a_model_that_does_not_fit_its_card_is_said(arguments):
    config = parse(arguments(**{"model.path": "black-forest-labs/FLUX.1-dev"})).config
    assert "does NOT fit its 22 GiB" in describe(config, 1, 6, 2, gpu="rtx4090")
    assert "float32 is several times slower" in describe(config, 1, 6, 2, gpu="rtx4090")


def test_the_command_takes_card_and_share(arguments, capsys):
    assert main([*arguments(), "--dry-run", "--gpu", "l40s", "--mfu", "0.25"]) == 0
    assert "1 x l40s, assuming 25% of 362 TFLOP/s" in capsys.readouterr().out
    for option, value, text in (("--gpu", "h300", "h300"), ("--mfu", "1.5", "--mfu is 1.5: it must be")):
        with pytest.raises(SystemExit):
            parse([*arguments(), option, value])
        assert text in capsys.readouterr().err


def test_dry_run_reports_without_the_model_and_writes_nothing(arguments, capsys, tmp_path):
    assert main([*arguments(**{"model.path": "black-forest-labs/FLUX.1-dev"}), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "not on this machine" in printed and "2 prompts x 4 members = 8 images" in printed
    assert "PFLOP" in printed and "GiB" in printed and not (tmp_path / "run").exists()


def test_dry_run_finds_a_missing_prompt_file(arguments, capsys):
    assert main([*arguments(**{"prompts.train": "nowhere.txt"}), "--dry-run"]) == 1
    assert "nowhere.txt" in capsys.readouterr().err
