"""Targets are held or missed by what was measured; alarms ring on planted failures and on nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from eval.alarms import Alarm
from eval.metrics import Bootstrap, Comparison, compare
from eval.numbers import percent, signed
from eval.verdict import Targets, judge

N = 40
RNG = np.random.default_rng(1)
NOISE = RNG.normal(0, 1, N)


def shifted(mean: float, shift: float, spread: float = 1.0) -> Comparison:
    base = mean + NOISE
    return compare(base, base + shift + spread * RNG.normal(0, 1, N), np.arange(N), Bootstrap(300))


def summary(**changes: Comparison) -> dict[str, Comparison]:
    honest = {
        "reward": shifted(50, 9),
        "iaa": shifted(50, 9),
        "iqa": shifted(50, 5),
        "adherence": shifted(30, -0.2),
        "grid_energy": shifted(0.002, 0.0, 0.0),
        "saturation": shifted(40, 4),
        "sharpness": shifted(6, 0.1, 0.1),
        "diversity": shifted(20, -1),
        "velocity_norm": shifted(1.0, 0.01, 0.01),
    }
    return {**honest, **changes}


def held(verdict: dict) -> dict[str, bool | None]:
    return {target["name"]: target["held"] for target in verdict["targets"]}


def rings(verdict: dict) -> dict[str, bool | None]:
    return {alarm["dimension"]: alarm["rings"] for alarm in verdict["alarms"]}


def test_an_honest_gain_holds_every_target_and_rings_nothing():
    verdict = judge(summary(), ["iaa", "iqa"], Targets(8.0), 0.95)
    assert verdict["held"] is True
    assert set(held(verdict).values()) == {True}
    assert set(rings(verdict).values()) == {False}
    assert verdict["line"].startswith("All 4 targets held: the weighted reward rose by ")
    assert "hacking" not in verdict["line"]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"reward": shifted(50, 4)}, ["reward_gain"]),
        ({"reward": shifted(50, -4)}, ["reward_gain", "reward_interval"]),
        ({"iqa": shifted(50, -0.5, 0.1)}, ["trained_dimensions"]),
        ({"adherence": shifted(30, -1.0, 0.1)}, ["adherence"]),
    ],
)
def test_a_missed_target_is_named_and_counted(changes: dict[str, Comparison], missed: list[str]):
    verdict = judge(summary(**changes), ["iaa", "iqa"], Targets(8.0), 0.95)
    assert verdict["held"] is False
    assert [name for name, value in held(verdict).items() if value is False] == missed
    assert verdict["line"].startswith(f"{len(missed)} of 4 targets missed")


def test_base_against_itself_does_not_hold_even_a_gain_of_zero():
    same = shifted(50, 0, 0)
    verdict = judge(summary(reward=same), ["iaa"], Targets(0.0), 0.95)
    assert held(verdict)["reward_gain"] is False
    assert held(verdict)["reward_interval"] is False


def test_what_was_not_measured_is_neither_held_nor_missed():
    partial = summary()
    del partial["adherence"], partial["saturation"]
    verdict = judge(partial, ["iaa"], Targets(8.0), 0.95)
    assert verdict["held"] is False
    assert held(verdict)["adherence"] is None
    assert rings(verdict)["saturation"] is None
    assert "3 of 4 targets held, the rest not measured" in verdict["line"]


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("grid_energy", shifted(0.002, 0.05, 0.001)),
        ("saturation", shifted(40, 25)),
        ("sharpness", shifted(6, -1.5)),
        ("diversity", shifted(20, -12)),
    ],
)
def test_a_planted_failure_rings_its_alarm_and_no_other(name: str, planted: Comparison):
    verdict = judge(summary(**{name: planted}), ["iaa"], Targets(8.0), 0.95)
    assert [dimension for dimension, rung in rings(verdict).items() if rung] == [name]
    assert f"Warning of reward hacking: {name.replace('_', ' ')}." in verdict["line"]


def test_a_large_change_that_is_not_certain_does_not_ring():
    uncertain = replace(shifted(20, 0), difference=-10.0, relative=-0.5, interval=(-25.0, 5.0))
    verdict = judge(summary(diversity=uncertain), ["iaa"], Targets(8.0), 0.95)
    assert rings(verdict)["diversity"] is False
    verdict = judge(
        summary(diversity=replace(uncertain, interval=(-15.0, -5.0))), ["iaa"], Targets(8.0), 0.95
    )
    assert rings(verdict)["diversity"] is True


def test_own_alarms_replace_the_default_ones():
    targets = Targets(alarms=[Alarm("adherence", "down", 0.001, meaning="pictures off the prompt")])
    verdict = judge(summary(adherence=shifted(30, -1, 0.1)), ["iaa"], targets, 0.95)
    assert rings(verdict) == {"adherence": True}


def test_an_alarm_without_a_meaning_names_what_it_watches():
    targets = Targets(alarms=[Alarm("grid_energy", "up", 0.01, absolute=True)])
    (alarm,) = judge(summary(), ["iaa"], targets, 0.95)["alarms"]
    assert alarm["meaning"] == "grid energy going up"


def test_a_tiny_loss_is_printed_as_one():
    verdict = judge(summary(iqa=shifted(50, -0.003, 0.0)), ["iaa", "iqa"], Targets(8.0), 0.95)
    (target,) = [target for target in verdict["targets"] if target["name"] == "trained_dimensions"]
    assert target["held"] is False and "iqa −0.0030" in target["measured"]


def test_numbers_carry_a_true_minus_sign_and_no_signed_zero():
    assert (signed(1.25, 1), signed(-1.25, 2), signed(-0.01, 1)) == ("+1.2", "−1.25", "0.0")
    assert percent(-0.0371) == "−3.7 %"
