"""Constraints: dual ascent in closed form, what reaches the advantages, runs that are held and resumed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from flow_grpo.cli import parse
from flow_grpo.constraint import Constraint, answer, ascend, held_by, relative_drop, weighed
from flow_grpo.train import main

NAN = float("nan")


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_dual_ascent_in_closed_form():
    rule = Constraint(max_relative_drop=0.02, rate=0.5, max_weight=2.0)
    assert ascend(0.0, 0.02, rule) == 0.0  # at the bound nothing moves
    assert ascend(0.0, 0.04, rule) == pytest.approx(0.5)  # twice the allowed drop: the rate
    assert ascend(1.0, 0.0, rule) == pytest.approx(0.5)  # no drop: down by the rate
    assert ascend(1.0, -0.02, rule) == pytest.approx(0.0)
    assert ascend(0.2, -0.5, rule) == 0.0 and ascend(1.9, 0.9, rule) == 2.0  # it cannot run away
    assert ascend(0.7, NAN, rule) == 0.7


def test_a_large_drop_raises_the_weight_by_no_more_than_max_rise():
    rule = Constraint(max_relative_drop=0.02, rate=0.5, max_rise=0.25)
    assert ascend(1.0, 0.2, rule) == 1.25 and ascend(1.0, 0.025, rule) == pytest.approx(1.125)
    assert ascend(1.0, 0.0, rule) == pytest.approx(0.5)  # what it loses is not bounded


def test_the_proportional_part_is_there_for_as_long_as_the_excess():
    rule = Constraint(max_relative_drop=0.02, proportional=2.0, max_weight=5.0)
    assert answer(1.0, 0.03, rule) == pytest.approx(2.0)  # half more than allowed
    assert answer(1.0, 0.02, rule) == answer(1.0, -0.1, rule) == answer(1.0, NAN, rule) == 1.0
    assert answer(1.0, 0.9, rule) == 5.0
    assert answer(1.0, 0.9, Constraint(max_relative_drop=0.02)) == 1.0


def test_it_finds_the_weight_that_holds_the_constraint():
    """max w x - x^2 / 2 over x, constraint drop = x / 10 <= 0.05: the best x is w - lambda, held at 0.5."""
    rule, weight = Constraint(max_relative_drop=0.05, rate=0.1), 0.0
    for _ in range(300):
        weight = ascend(weight, (2.0 - weight) / 10, rule)
    assert weight == pytest.approx(1.5, abs=1e-6)


def test_drops_are_of_pairs_that_both_have_scores():
    pairs = np.array([[9.0, 10.0], [18.0, 20.0], [NAN, 1.0], [1.0, NAN]])
    assert relative_drop(pairs) == pytest.approx(0.1)
    assert relative_drop(np.array([[-11.0, -10.0]])) == pytest.approx(0.1)
    assert np.isnan(relative_drop(pairs[2:])) and np.isnan(relative_drop(np.zeros((2, 2))))


def test_a_constraint_is_one_more_weighted_dimension_unless_its_weight_is_zero():
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    given = (values, ("a", "b", "c", "d"), (1, 2), np.array([0.5, 2.0], dtype=np.float32))
    columns, weights = weighed(*given, {"d": 3.0, "a": 0.0})
    assert columns.tolist() == [[1, 2, 3], [5, 6, 7]] and weights.tolist() == [0.5, 2.0, 3.0]
    columns, weights = weighed(*given, {})
    assert columns.tolist() == [[1, 2], [5, 6]] and weights.dtype == np.float32


def test_the_first_iteration_is_the_base_and_a_broken_constraint_raises_its_weight(arguments, tmp_path):
    """Rewarded for grey: saturation falls with it, and its weight comes up."""
    options: dict[str, Any] = {
        "iterations": 8,
        "optimizer.lr": 0.05,
        "prompts.group_size": 8,
        "sampler.chunk": 16,
    }
    options |= {"reward.weights": "{colourfulness: -1.0}", "validation.every": 99, "checkpoint.every": 99}
    rule = "{saturation: {max_relative_drop: 1.0e-4, rate: 1.0e-3, base_members: 8}}"
    assert main(arguments(**options, reward__constraints=rule)) == 0
    found = rows(tmp_path / "run")
    # Without training the policy is the base, on the same noise, to the bit.
    assert found[0]["drop/saturation"] == 0.0 and found[0]["lambda/saturation"] == 0.0
    weight = 0.0
    for row in found:
        weight = ascend(weight, row["drop/saturation"], Constraint(1e-4, 1e-3))
        assert row["lambda/saturation"] == pytest.approx(weight)
    assert found[-1]["drop/saturation"] > 1e-4 and found[-1]["lambda/saturation"] > 0
    assert "weight/saturation" not in found[0] and found[0]["seconds/base"] > 0
    assert found[0]["reward"] == found[0]["reward/colourfulness"] * -1


def test_a_constraint_bends_the_run(arguments, tmp_path):
    """The same run with and without: what is held falls less."""
    options: dict[str, Any] = {
        "iterations": 12,
        "optimizer.lr": 0.05,
        "prompts.group_size": 8,
        "sampler.chunk": 16,
    }
    options |= {"optimizer.ema_decay": 0, "validation.every": 12, "checkpoint.every": 99}
    options |= {"reward.weights": "{colourfulness: -1.0}"}
    rule = "{saturation: {max_relative_drop: 1.0e-4, rate: 50, start: 50, max_weight: 500}}"
    change = {}
    for name, constraints in (("free", "{}"), ("held", rule)):
        assert main(arguments(run_dir=tmp_path / name, reward__constraints=constraints, **options)) == 0
        first, last = map(json.loads, (tmp_path / name / "eval.jsonl").read_text().splitlines())
        change[name] = last["saturation"] - first["saturation"]
    assert change["free"] < 0 and change["held"] > change["free"] / 2


def test_only_the_integral_outlives_an_iteration(arguments, tmp_path):
    options: dict[str, Any] = {"iterations": 4, "optimizer.lr": 0.05, "checkpoint.every": 4}
    options |= {"reward.weights": "{colourfulness: -1.0}"}
    constraint = Constraint(1e-5, rate=1e-3, max_rise=2e-3, proportional=0.5, max_weight=1e6)
    rule = ", ".join(f"{key}: {value}" for key, value in asdict(constraint).items())
    assert main(arguments(reward__constraints=f"{{saturation: {{{rule}}}}}", **options)) == 0
    weight, found = 0.0, rows(tmp_path / "run")
    for row in found:
        weight = ascend(weight, row["drop/saturation"], constraint)
        assert row["lambda/saturation"] == pytest.approx(answer(weight, row["drop/saturation"], constraint))
    assert max(row["lambda/saturation"] for row in found) > 2e-3 * len(found)  # more than the integral can be
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-000004" / "state.json").read_text())
    assert state["multipliers"]["saturation"] == pytest.approx(weight)


def test_a_constraint_held_by_kl_is_a_larger_kl_weight(arguments, tmp_path):
    """lambda that stays at 2 is three times the KL weight, and no term of the reward, to the bit."""
    stays = "{saturation: {max_relative_drop: 0.99, rate: 1.0e-30, start: 2, max_weight: 2, held_by: kl}}"
    options: dict[str, Any] = {
        "iterations": 3,
        "optimizer.lr": 0.05,
        "reward.weights": "{colourfulness: -1.0}",
    }
    for name, weight, constraints in (("held", 0.125, stays), ("plain", 0.375, "{}"), ("less", 0.125, "{}")):
        own = {"run_dir": tmp_path / name, "regularizer.kl_weight": weight, "reward.constraints": constraints}
        assert main(arguments(**options, **own)) == 0
    adapters = {
        name: load_file(tmp_path / name / "pytorch_lora_weights.safetensors")
        for name in ("held", "plain", "less")
    }
    assert all((tensor == adapters["plain"][key]).all() for key, tensor in adapters["held"].items())
    assert any((tensor != adapters["less"][key]).any() for key, tensor in adapters["held"].items())
    assert rows(tmp_path / "held")[-1]["lambda/saturation"] == 2


def test_constraints_of_both_kinds_stand_side_by_side():
    rules = {"a": Constraint(0.1), "b": Constraint(0.1, held_by="kl")}
    assert held_by(rules, {"a": 1.0, "b": 2.0}, "reward") == {"a": 1.0}
    assert held_by(rules, {"a": 1.0, "b": 2.0}, "kl") == {"b": 2.0}
    assert held_by({}, {}, "kl") == {}


def test_resuming_goes_on_with_the_same_weights_to_the_bit(arguments, tmp_path):
    options = {"reward.constraints": "{sharpness: {max_relative_drop: 1.0e-6, rate: 0.01, start: 0.5}}"}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(arguments(run_dir=straight, iterations=4, **options)) == 0
    for iterations in (2, 4):
        assert main(arguments(run_dir=broken, iterations=iterations, **options)) == 0
    ends = [run / "checkpoints" / "step-000004" for run in (straight, broken)]
    states = [json.loads((end / "state.json").read_text())["multipliers"] for end in ends]
    assert states[0] == states[1] and states[0]["sharpness"] == rows(straight)[-1]["lambda/sharpness"] != 0.5
    adapters = [load_file(end / "adapter.safetensors") for end in ends]
    assert all((adapters[0][name] == adapters[1][name]).all() for name in adapters[0])


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("{sharpness: {max_relative_drop: 0}}", "max_relative_drop between 0 and 1"),
        ("{sharpness: {max_relative_drop: 0.1, start: 20}}", "start from 0 to max_weight"),
        ("{sharpness: {max_relative_drop: 0.1, rate: 0}}", "rate and max_rise above 0"),
        ("{sharpness: {max_relative_drop: 0.1, max_rise: 0}}", "rate and max_rise above 0"),
        ("{sharpness: {max_relative_drop: 0.1, proportional: -1}}", "proportional at least 0"),
        ("{sharpness: {max_relative_drop: 0.1, max_weight: .inf}}", "max_weight"),
        ("{sharpness: {max_relative_drop: 0.1, base_members: 5}}", "from 1 to prompts.group_size = 4"),
        ("{sharpness: {max_relative_drop: 0.1, held_by: kl}}", "regularizer.kl_weight, which is 0"),
        ("{sharpness: {max_relative_drop: 0.1, held_by: hope}}", "held_by"),
        ("{colourfulness: {max_relative_drop: 0.1}}", "is for a held-out dimension"),
        ("{sharpness: {}}", "max_relative_drop"),
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused(arguments, capsys, rule, text):
    with pytest.raises(SystemExit):
        parse(arguments(reward__constraints=rule))
    assert text in " ".join(capsys.readouterr().err.split())


def test_a_constraint_on_an_unknown_dimension_is_named(arguments, capsys):
    assert main(arguments(reward__constraints="{adherence: {max_relative_drop: 0.1}}")) == 1
    assert "reward.constraints.adherence: no scorer gives 'adherence'" in capsys.readouterr().err
