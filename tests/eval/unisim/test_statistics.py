"""Counts, means of means and their intervals, the best technique, and agreement between tasks."""

import math

import numpy as np
import pytest

from eval.proportion import wilson
from eval.unisim.record import Tally, TaskScore
from eval.unisim.samples import Task
from eval.unisim.statistics import average, best_technique, between_tasks, kendall, mean, tally, tally_ranked


def test_what_was_not_answered_counts_as_wrong():
    found = tally([0, 1, None, 1], [0, 0, 0, 1], 0.9)
    assert (found.answered, found.right, found.unanswered, found.accuracy) == (3, 2, 1, 0.5)
    assert found.interval == wilson(2, 4, 0.9)
    assert tally([], [], 0.9) == Tally(0, 0, 0, None, None)
    assert tally_ranked(np.zeros((0, 2)), 0.9) == Tally(0, 0, 0, None, None)
    assert tally_ranked(np.array([[0.5, 1.0], [0.5, 0.0]]), 0.9).accuracy == 0.5


def test_the_interval_of_a_mean_is_that_of_independent_parts():
    # equal symmetric intervals of k parts: the reach of their mean is theirs over sqrt(k)
    centre, interval = mean([(0.5, (0.4, 0.6))] * 4)
    assert centre == 0.5 and interval == pytest.approx((0.45, 0.55))
    # lopsided ones stay lopsided
    centre, interval = mean([(0.9, (0.8, 0.93)), (0.7, (0.65, 0.8))])
    assert centre == pytest.approx(0.8)
    assert interval == pytest.approx((0.8 - math.hypot(0.1, 0.05) / 2, 0.8 + math.hypot(0.03, 0.1) / 2))
    assert mean([(0.3, (0.1, 0.4))])[1] == pytest.approx((0.1, 0.4))
    assert mean([(0.5, None), (0.7, (0.6, 0.8))]) == (0.6, None)
    assert mean([(None, None), (0.7, None)]) == mean([]) == (None, None)


def test_the_interval_of_a_mean_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, n = (0.95, 0.6, 0.75), (60, 400, 100)
    inside, runs = 0, 2000
    for _ in range(runs):
        drawn = [int(rng.binomial(size, share)) for share, size in zip(truth, n, strict=True)]
        parts = [(right / size, wilson(right, size)) for right, size in zip(drawn, n, strict=True)]
        low, high = mean(parts)[1] or (0.0, 0.0)
        inside += low <= sum(truth) / 3 <= high
    assert inside / runs == pytest.approx(0.95, abs=0.02)


def counted(share: float) -> Tally:
    return Tally(10, round(10 * share), 0, share, None)


def test_the_best_technique_is_that_of_the_mean_and_not_of_a_data_set():
    parts = [
        {"naive": counted(0.9), "clip_iqa": counted(0.8)},
        {"naive": counted(0.5), "clip_iqa": counted(0.7)},
    ]
    assert best_technique(parts) == ("clip_iqa", {"naive": pytest.approx(0.7), "clip_iqa": 0.75})
    # what one data set lacks cannot be averaged
    assert best_technique([parts[0], {"naive": counted(0.5)}])[0] == "naive"
    assert best_technique([{"": counted(0.5)}]) == ("", {"": 0.5})
    # of equal ones the first
    assert best_technique([{"naive": counted(0.5), "clip_iqa": counted(0.5)}])[0] == "naive"
    assert best_technique([]) == (None, {})


def score(accuracy: float | None, missing: tuple[str, ...] = ()) -> TaskScore:
    return TaskScore(accuracy, None, None, {}, ["a"], list(missing))


def test_an_average_over_fewer_tasks_is_none():
    shares: dict[Task, float] = {"img_2afc": 0.8, "it_2afc": 0.6, "text_2afc": 0.7, "iqa": 0.5, "paa": 0.1}
    tasks = {task: score(share) for task, share in shares.items()}
    found = average(tasks, "core")
    assert found.accuracy == pytest.approx(0.65) and found.missing == []
    assert average(tasks, "ood").accuracy is None
    assert average(tasks, "ood").missing == ["ooo", "ir"] and average(tasks, "ood").tasks == ["paa"]
    assert average(tasks | {"iqa": score(0.5, ("kadid",))}, "core").missing == ["iqa"]
    assert average(tasks | {"iqa": score(None)}, "core").accuracy is None


def test_the_published_averages_come_out():
    """UniSim's table 2, CLIP ViT-B/32 before and after tuning: 72.6 and 83.0 over the four core tasks."""
    names: tuple[Task, ...] = ("img_2afc", "it_2afc", "text_2afc", "iqa")
    for parts, published in (((78.0, 70.6, 75.0, 67.0), 72.6), ((80.7, 75.8, 90.3, 85.3), 83.0)):
        tasks = {name: score(part / 100) for name, part in zip(names, parts, strict=True)}
        assert average(tasks, "core").accuracy == pytest.approx(published / 100, abs=6e-4)


def test_kendall_by_hand():
    # pairs of (1, 2, 3): two in order and one against: (2 - 1) / 3
    assert kendall([1, 2, 3], [1, 3, 2])[0] == pytest.approx(1 / 3)
    assert kendall([1, 2, 3], [3, 2, 1])[0] == pytest.approx(-1)
    # a tie in the first: 2 in order, none against, of sqrt(2 * 3)
    assert kendall([1, 1, 2], [1, 2, 3])[0] == pytest.approx(2 / math.sqrt(6))
    # exact test of n = 4 in perfect order: 2 of 24 orders are as far from none
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4])[1] == pytest.approx(2 / 24)
    assert kendall([1], [1]) == (None, None, "1 models have both; an order needs two")
    assert kendall([1, 1], [1, 2])[2] == "all models are equal in one of the tasks"


def test_agreement_is_of_models_that_have_both_tasks_and_of_each_group():
    models: list[tuple[str | None, dict[Task, float]]] = [
        ("general", {"img_2afc": 0.1, "iqa": 0.1}),
        ("general", {"img_2afc": 0.2, "iqa": 0.2, "ooo": 0.5}),
        ("special", {"img_2afc": 0.3, "iqa": 0.0}),
        (None, {"iqa": 0.9}),
    ]
    found = {(tau.group, tau.first, tau.second): tau for tau in between_tasks(models)}
    assert found[None, "img_2afc", "iqa"].n == 3
    assert found[None, "img_2afc", "iqa"].tau == pytest.approx(-1 / 3)
    assert found["general", "img_2afc", "iqa"].tau == pytest.approx(1)
    assert found["special", "img_2afc", "iqa"].undefined and found["special", "img_2afc", "iqa"].tau is None
    assert found[None, "img_2afc", "ooo"].n == 1
    assert (None, "paa", "ooo") not in found  # no model has both
