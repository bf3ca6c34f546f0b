"""Samplers by configuration: which step does what, what is refused, and that every mix of them trains."""

import json
from pathlib import Path

import numpy as np
import pytest

from flow_grpo.cli import as_yaml, parse
from flow_grpo.sampler import (
    SamplerConfig,
    StepConfig,
    check_sampler,
    stochastic_steps,
    training_plan,
    transition,
)
from flow_grpo.train import main
from flow_grpo.window import WindowConfig

ROOT = Path(__file__).parents[2]
LAB = ("cps", "dance", "fast", "mix", "branch")
KINDS = ("flow_sde", "cps", "dance_sde")
MIXED = SamplerConfig(
    num_steps=6,
    noise_level=0.9,
    steps={
        0: StepConfig(kind="cps", noise_level=0.8),
        2: StepConfig(noise_level=0),
        3: StepConfig(kind="dance_sde"),
    },
)


def refused(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        parse(command)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_step_has_its_own_kind_and_level_where_they_are_given():
    assert [transition(MIXED, index) for index in range(4)] == [
        ("cps", 0.8),
        ("flow_sde", 0.9),
        ("flow_sde", 0),
        ("dance_sde", 0.9),
    ]


def test_a_step_with_noise_zero_is_never_trained():
    assert stochastic_steps(MIXED, seed=0, iteration=0) == (0, 1, 3, 4)
    plan = training_plan(MIXED, 0, 0)
    assert (plan.kind, plan.noise_level) == (
        ["cps", "flow_sde", "dance_sde", "flow_sde"],
        [0.8, 0.9, 0.9, 0.9],
    )


def test_steps_outside_of_the_window_have_no_effect():
    window = WindowConfig("fixed", size=2, start=1)
    config = SamplerConfig(num_steps=6, window=window, steps={4: StepConfig(kind="cps", noise_level=0.5)})
    assert training_plan(config, 0, 0) == training_plan(SamplerConfig(num_steps=6, window=window), 0, 0)


def test_steps_are_read_from_a_file_and_written_back(tmp_path, arguments):
    path = tmp_path / "c.yaml"
    path.write_text("sampler:\n  steps:\n    0: {kind: cps, noise_level: 0.8}\n    2: {noise_level: 0}\n")
    config = parse(["--config", str(path), *arguments()]).config
    assert config.sampler.steps == {0: StepConfig("cps", 0.8), 2: StepConfig(None, 0.0)}
    path.write_text(as_yaml(config))
    assert parse(["--config", str(path)]).config == config


@pytest.mark.parametrize(
    "steps, rule",
    [
        ("{3: {kind: cps}}", "sampler.steps has step 3: steps that can have noise are 0 to 2"),
        ("{-1: {kind: cps}}", "sampler.steps has step -1"),
        (
            "{1: {kind: cps, noise_level: 1.2}}",
            "sampler.steps.1.noise_level is 1.2: it must be at most 1 with cps",
        ),
        ("{1: {noise_level: -1}}", "sampler.steps.1.noise_level is -1.0: it must be a number, not negative"),
        ("{1: {noise_level: .nan}}", "sampler.steps.1.noise_level is nan: it must be a number"),
        ("{0: {noise_level: 0}, 1: {noise_level: 0}}", "every step of the window 0 to 1 noise 0"),
        ("{1: {knd: cps}}", "knd"),
        ("{1: {kind: euler}}", "euler"),
        ("{first: {kind: cps}}", "first"),
    ],
)
def test_steps_that_cannot_be_are_refused(capsys, arguments, steps, rule):
    assert rule in refused(capsys, *arguments(), "--sampler.steps", steps)


def test_a_step_that_the_algorithm_cannot_use_is_refused(capsys, arguments):
    command = [*arguments(algorithm="guard"), "--sampler.steps", "{1: {kind: cps, noise_level: 0.5}}"]
    message = refused(capsys, *command)
    assert "sampler.steps.1.kind is 'cps': it is not defined for algorithm guard; use flow_sde" in message


def test_branching_needs_shared_noise(capsys, arguments):
    message = refused(capsys, *arguments(sampler__branch="true"))
    assert "sampler.branch is True" in message and "Set sampler.shared_noise to true" in message
    assert parse(arguments(sampler__branch="true", sampler__shared_noise="true")).config.sampler.branch


def test_every_place_of_a_moving_window_is_checked():
    """A random window begins at 0 or 1 here; only the second would be without noise."""
    window = WindowConfig("random", size=1, stop=2)
    config = SamplerConfig(num_steps=6, window=window, steps={1: StepConfig(noise_level=0)})
    with pytest.raises(ValueError, match="every step of the window 1 to 1 noise 0"):
        check_sampler(config, "grpo", KINDS)


@pytest.mark.parametrize("name", LAB)
def test_each_sampler_trains_as_its_pocket_configuration_says(arguments, flux_path, tmp_path, name):
    """The file's sampler on a tiny model for two iterations; the pocket model's curves are in the docs."""
    tiny = arguments(run_dir=tmp_path / "run", iterations=2, optimizer__micro_batch=8)
    values = dict(zip(tiny[::2], tiny[1::2], strict=True))
    own = {key: value for key, value in values.items() if not key.startswith("--sampler")}
    own.update({"--model.lora.targets": "null", "--reward.url": "null", "--stop.metric": "null"})
    own.update({"--sampler.chunk": "3", "--optimizer.updates_per_rollout": "2", "--validation.every": "9"})
    command = ["--config", str(ROOT / "configs" / "lab" / f"{name}.yaml")]
    assert main([*command, *(part for pair in own.items() for part in pair)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        # The stored log-probability is that of the first update: kinds, levels and steps are the same there.
        assert row["rollout_drift"] <= 1e-6 and row["dead_groups"] == 0
        assert np.isfinite(row["loss"]) and row["grad_norm"] > 0


def test_a_mix_of_all_kinds_trains(arguments, tmp_path):
    steps = "{0: {kind: cps, noise_level: 0.8}, 1: {kind: dance_sde, noise_level: 0.5}}"
    options = {"sampler.window.kind": "all", "optimizer.micro_batch": 5, "regularizer.kl_weight": 0.01}
    assert main([*arguments(**options), "--sampler.steps", steps]) == 0
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["rollout_drift"] <= 1e-6 and row["grad_norm"] > 0 and np.isfinite(row["kl"])
