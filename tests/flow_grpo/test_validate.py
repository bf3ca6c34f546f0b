"""Which weights are kept, and when a run stops."""

import numpy as np
import pytest
import scipy.stats

from flow_grpo.cli import parse
from flow_grpo.config import StopConfig
from flow_grpo.validate import KeepBest, Validation, by_prompt, surely_below

RULE = StopConfig(metric="adherence", max_relative_drop=0.02, patience=2)


def feed(rule, *pairs):
    keeper = KeepBest()
    kept = [
        keeper.update(step, Validation({"reward": reward, "adherence": adherence}), rule)
        for step, (reward, adherence) in enumerate(pairs)
    ]
    return keeper, kept


def test_the_best_reward_within_the_bound_is_kept():
    # Bound: 98 of the first 100. Step 2 has the best reward but is beyond it.
    keeper, kept = feed(RULE, (10, 100), (12, 98.5), (20, 97.9), (11, 99), (13, 98.0))
    assert kept == [True, True, False, False, True]
    assert keeper.best_step == 4 and keeper.best_reward == 13 and not keeper.should_stop(RULE)


def test_patience_counts_consecutive_breaches():
    keeper, _ = feed(RULE, (10, 100), (12, 90), (12, 99), (12, 90))
    assert keeper.breaches == 1 and not keeper.should_stop(RULE)
    keeper.update(4, Validation({"reward": 12, "adherence": 90}), RULE)
    assert keeper.should_stop(RULE)
    assert not keeper.should_stop(StopConfig(metric="adherence", patience=0))


def test_the_bound_is_relative_to_the_size_of_a_negative_baseline():
    keeper, kept = feed(RULE, (1, -10.0), (2, -10.1), (3, -10.3))
    assert kept == [True, True, False] and keeper.best_step == 1


def test_without_a_metric_only_the_reward_counts():
    rule = StopConfig(metric=None)
    keeper, kept = feed(rule, (10, 100), (12, 1), (11, 1))
    assert kept == [True, True, False] and not keeper.should_stop(rule)


def test_a_validation_without_scores_is_never_the_best():
    nan = float("nan")
    keeper, kept = feed(RULE, (10, 100), (nan, 100), (12, nan))
    assert kept == [True, False, False] and keeper.best_step == 0


def test_a_floor_keeps_weights_from_being_chosen_but_does_not_stop():
    rule = StopConfig(metric="adherence", max_relative_drop=0.5, patience=1, floors={"iaa": 0.0})
    keeper = KeepBest()
    rows = [(10.0, 50.0), (14.0, 49.9), (12.0, 50.0), (13.0, 51.0)]
    kept = [
        keeper.update(i, Validation({"reward": r, "iaa": iaa, "adherence": 1.0}), rule)
        for i, (r, iaa) in enumerate(rows)
    ]
    assert kept == [True, False, True, True] and keeper.best_step == 3
    assert not keeper.should_stop(rule)


def test_its_state_survives_a_checkpoint():
    keeper, _ = feed(RULE, (10, 100), (12, 90))
    assert KeepBest(**keeper.state()) == keeper


def test_any_of_several_bounds_stops_and_keeps_weights_from_being_chosen():
    rule = StopConfig(metric="adherence", max_relative_drop=0.1, bounds={"iaa": 0.0, "iqa": 0.5}, patience=2)
    keeper, kept = KeepBest(), []
    for step, (iaa, iqa, adherence) in enumerate(
        [(50, 50, 90), (50, 50, 80), (49, 50, 90), (51, 50, 90), (49, 20, 90)]
    ):
        means = {"reward": 10.0 + step, "iaa": iaa, "iqa": iqa, "adherence": adherence}
        kept.append(keeper.update(step, Validation(means), rule))
        if step == 2:
            assert keeper.broken == ["iaa"] and keeper.should_stop(rule)  # another one than before
    assert kept == [True, False, False, True, False]
    assert keeper.broken == ["iaa", "iqa"] and keeper.breaches == 1


def test_a_floor_and_a_bound_of_one_dimension_both_count():
    rule = StopConfig(floors={"iaa": 0.0}, bounds={"iaa": 0.5}, patience=1)
    keeper = KeepBest()
    kept = [
        keeper.update(i, Validation({"reward": 10.0 + i, "iaa": iaa}), rule)
        for i, iaa in enumerate((50.0, 40.0))
    ]
    assert kept == [True, False] and not keeper.should_stop(rule)


def test_a_fall_is_sure_when_students_interval_lies_past_the_bound():
    rng = np.random.default_rng(0)
    before = rng.normal(90, 5, 24)
    for fall in np.linspace(0.0, 0.06, 13):
        now = before * (1 - fall) + rng.normal(0, 3, 24)
        distance = now - 0.98 * before
        expected = scipy.stats.ttest_1samp(distance, 0.0, alternative="less").pvalue < 0.05
        assert surely_below(now.tolist(), before.tolist(), 0.02, 0.95) == expected


def test_what_is_surely_below():
    nan = float("nan")
    assert surely_below([8.5, 18.0], [10.0, 20.0], 0.05, 0.95)
    assert not surely_below([9.6, 19.2], [10.0, 20.0], 0.05, 0.95)
    assert not surely_below([5.0], [10.0], 0.05, 0.95)  # one prompt says nothing about others
    assert surely_below([nan, 5.0], [10.0, nan], 0.05, 0.95)  # nothing measured is no leave to go on
    assert surely_below([-11.5, -22.0], [-10.0, -20.0], 0.05, 0.95)
    assert not surely_below([-10.0, -20.0], [-10.0, -20.0], 0.05, 0.95)
    assert not surely_below([nan, 9.6, 19.2], [1.0, 10.0, 20.0], 0.05, 0.95)


def test_with_confidence_a_stop_needs_more_than_an_unlucky_mean():
    before, noisy, sure = [10.0, 20.0, 30.0], [4.0, 25.0, 28.0], [8.0, 18.1, 28.0]
    rules = {None: (1, 1), 0.95: (0, 1)}
    for confidence, expected in rules.items():
        rule = StopConfig(metric="adherence", max_relative_drop=0.02, patience=1, confidence=confidence)
        breaches = []
        for now in (noisy, sure):
            keeper = KeepBest()
            for step, values in enumerate((before, now)):
                means = {"reward": 1.0 + step, "adherence": float(np.mean(values))}
                kept = keeper.update(step, Validation(means, {"adherence": values}), rule)
            assert not kept  # what is kept goes by the means
            breaches.append(keeper.breaches)
        assert tuple(breaches) == expected
        assert KeepBest(**keeper.state()) == keeper


def test_prompts_have_the_mean_of_their_pictures():
    column = np.array([1.0, 3.0, 5.0, np.nan, np.nan, np.nan], dtype=np.float32)
    found = by_prompt(column, np.array([0, 0, 1, 1, 2, 2]))
    assert found[:2] == [2.0, 5.0] and np.isnan(found[2])


@pytest.mark.parametrize(
    ("key", "value"),
    [("stop.bounds", "{sharpness: -0.1}"), ("stop.confidence", "1.0"), ("stop.floors", "{a: -1}")],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments, capsys, key, value):
    with pytest.raises(SystemExit):
        parse(arguments(**{key: value}))
    assert key in capsys.readouterr().err


@pytest.mark.parametrize("confidence", ["null", "0.5"])
def test_a_run_stops_by_a_bound_and_says_which(arguments, tmp_path, capsys, confidence):
    from flow_grpo.train import main

    options = {
        "iterations": 9,
        "optimizer.lr": 0.05,
        "reward.weights": "{colourfulness: -1.0}",
        "validation.every": 1,
        "optimizer.ema_decay": 0,
        "stop.bounds": "{saturation: 1.0e-6}",
        "stop.confidence": confidence,
        "stop.patience": 1,
    }
    assert main(arguments(**options)) == 0
    rows = (tmp_path / "run" / "eval.jsonl").read_text().splitlines()
    assert len(rows) < 10 and "saturation was below its bound for 1 validations" in capsys.readouterr().out
