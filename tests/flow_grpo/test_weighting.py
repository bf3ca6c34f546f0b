"""Weights that move while training, and the statistics of every dimension: closed forms, then a run."""

import json

import numpy as np
import pytest

from flow_grpo.cli import parse
from flow_grpo.train import main
from flow_grpo.weighting import Ramp, statistics, weights_at, within_groups

NAN = float("nan")


def test_a_ramp_is_linear_between_its_ends_and_flat_outside():
    ramp = Ramp(start=0.2, begin=10, end=30)
    weights = [weights_at({"iaa": 1.0, "iqa": 0.5}, {"iaa": ramp}, i) for i in (0, 10, 20, 30, 99)]
    assert [w["iaa"] for w in weights] == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    assert {w["iqa"] for w in weights} == {0.5}


def test_a_ramp_may_end_at_a_weight_that_is_not_named():
    assert [weights_at({"iaa": 1.0}, {"iqa": Ramp(2.0, 4)}, i)["iqa"] for i in (0, 1, 4)] == [2.0, 1.5, 0.0]


def test_statistics_leave_missing_scores_out():
    values = np.array([[0.0, 1.0], [10.0, NAN], [20.0, 3.0], [NAN, 5.0]], dtype=np.float32)
    found = statistics(values, ["a", "b"], np.array([0.0, 1.0, 2.0, NAN]), np.zeros(4, dtype=int))
    assert found["std/a"] == pytest.approx(np.std([0, 10, 20]))
    assert (found["p10/a"], found["p90/a"]) == pytest.approx((2.0, 18.0))
    assert found["std/b"] == pytest.approx(np.std([1, 3, 5]))


def test_statistics_of_nothing_are_nan():
    found = statistics(np.full((2, 1), NAN), ["a"], np.ones(2), np.zeros(2, dtype=int))
    assert set(found) == {"std/a", "p10/a", "p90/a", "correlation/a"}
    assert all(np.isnan(value) for value in found.values())


def test_correlation_is_within_groups():
    # Across groups a rises with the reward; within each group it falls.
    reward, a = np.array([1.0, 2.0, 11.0, 12.0]), np.array([2.0, 1.0, 12.0, 11.0])
    groups = np.array([7, 7, 3, 3])
    assert np.corrcoef(reward, a)[0, 1] > 0.9
    assert within_groups(a, reward, groups) == pytest.approx(-1.0)


def test_correlation_is_pearsons_where_there_is_one_group():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=50), rng.normal(size=50)
    expected = np.corrcoef(first, second)[0, 1]
    assert within_groups(first, second, np.zeros(50, dtype=int)) == pytest.approx(expected)
    assert np.isnan(within_groups(first, np.ones(50), np.zeros(50, dtype=int)))


def test_a_run_follows_the_ramp_and_writes_it_down(arguments, tmp_path):
    options = {
        "iterations": 3,
        "reward.weights": "{colourfulness: 1.0, sharpness: 2.0}",
        "reward.ramps": "{sharpness: {start: 0.0, end: 2}}",
    }
    assert main(arguments(**options)) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["weight/sharpness"] for row in rows] == [0.0, 1.0, 2.0]
    for row in rows:
        # The name of its mean stays the same although its weight is 0 at first.
        assert row["reward"] == pytest.approx(
            row["reward/colourfulness"] + row["weight/sharpness"] * row["reward/sharpness"], rel=1e-5
        )
        assert "weight/saturation" not in row and row["std/saturation"] > 0
    assert rows[0]["correlation/colourfulness"] == pytest.approx(1.0)
    # Validation has the weights of the end, so that its rewards can be compared.
    for row in map(json.loads, (tmp_path / "run" / "eval.jsonl").read_text().splitlines()):
        assert row["reward"] == pytest.approx(row["colourfulness"] + 2 * row["sharpness"], rel=1e-5)


@pytest.mark.parametrize(
    ("ramps", "text"),
    [
        ("{sharpness: {start: 0, begin: 5, end: 5}}", "0 <= begin < end"),
        ("{sharpness: {start: .nan, end: 5}}", "finite start"),
        ("{colourfulness: {start: 0, end: 5}}", "leaves nothing to reward in iterations [0]"),
        ("{sharpness: {start: 0, until: 5}}", "until"),
    ],
)
def test_a_ramp_that_makes_no_sense_is_refused(arguments, capsys, ramps, text):
    with pytest.raises(SystemExit):
        parse(arguments(reward__ramps=ramps))
    assert text in " ".join(capsys.readouterr().err.split())


def test_a_ramp_of_an_unknown_dimension_is_named(arguments, capsys):
    assert main(arguments(reward__ramps="{sharpnes: {start: 1, end: 5}}")) == 1
    assert "reward.ramps.sharpnes: no scorer gives 'sharpnes'" in capsys.readouterr().err
