"""Closed forms and scipy: what the intervals, win rates and distances must be."""

import numpy as np
import pytest
import scipy.stats

from eval.metrics import (
    QUANTILES,
    Bootstrap,
    compare,
    describe,
    diversity,
    outcomes,
    paired_bootstrap,
    pixel_distance,
)


def test_identical_scores_give_zero_difference_and_half_the_wins():
    scores = np.array([3.0, 1.0, 4.0, 1.0])
    result = compare(scores, scores, np.arange(4))
    assert result.difference == 0.0
    assert result.interval == (0.0, 0.0)
    assert result.relative == 0.0
    assert (result.win_rate, result.ties) == (0.5, 4)


def test_constant_shift_has_an_interval_without_width():
    base = np.array([1.0, 5.0, 2.0, 8.0])
    result = compare(base, base + 2.0, np.arange(4))
    assert result.difference == pytest.approx(2.0)
    assert result.interval == pytest.approx((2.0, 2.0))
    assert result.relative == pytest.approx(0.5)
    assert result.win_rate == 1.0


def test_two_prompts_have_the_binomial_bootstrap_distribution():
    # Differences 0 and 1: the resampled mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    interval, _ = paired_bootstrap(
        np.zeros(2), np.array([0.0, 1.0]), np.arange(2), Bootstrap(confidence=0.95)
    )
    assert interval == (0.0, 1.0)
    interval, _ = paired_bootstrap(np.zeros(2), np.array([0.0, 1.0]), np.arange(2), Bootstrap(confidence=0.4))
    assert interval == (0.5, 0.5)


def test_interval_agrees_with_scipy():
    rng = np.random.default_rng(3)
    base = rng.normal(50, 5, 60)
    tuned = base + rng.normal(1.5, 4, 60)
    ours, relative = paired_bootstrap(base, tuned, np.arange(60), Bootstrap(resamples=20_000))
    theirs = scipy.stats.bootstrap(
        (tuned - base,), np.mean, n_resamples=20_000, method="percentile"
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05)
    ratio = scipy.stats.bootstrap(
        (base, tuned),
        lambda b, t, axis: t.mean(axis) / b.mean(axis) - 1,
        paired=True,
        n_resamples=20_000,
        method="percentile",
    ).confidence_interval
    assert relative == pytest.approx((ratio.low, ratio.high), abs=0.002)


def test_members_of_a_prompt_are_resampled_together():
    # Eight copies of a prompt's result carry no more evidence than one.
    rng = np.random.default_rng(0)
    difference = rng.normal(1.0, 3.0, 30)
    base = np.full(30, 10.0)
    single, _ = paired_bootstrap(base, base + difference, np.arange(30))
    copies, _ = paired_bootstrap(
        np.repeat(base, 8), np.repeat(base + difference, 8), np.repeat(np.arange(30), 8)
    )
    assert single is not None
    assert copies == pytest.approx(single)
    pretended, _ = paired_bootstrap(np.repeat(base, 8), np.repeat(base + difference, 8), np.arange(240))
    assert pretended is not None
    assert pretended[1] - pretended[0] < 0.5 * (single[1] - single[0])


def test_coverage_of_the_interval_is_near_its_nominal_value():
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        base = rng.normal(0, 1, 40)
        tuned = base + rng.normal(0.3, 1, 40)
        interval, _ = paired_bootstrap(base, tuned, np.arange(40), Bootstrap(resamples=500, seed=trial))
        assert interval is not None
        hits += interval[0] <= 0.3 <= interval[1]
    assert 0.88 <= hits / 200 <= 0.99


def test_seed_decides_the_interval():
    rng = np.random.default_rng(5)
    base, tuned = rng.normal(size=20), rng.normal(size=20)
    same = [paired_bootstrap(base, tuned, np.arange(20), Bootstrap(resamples=200, seed=9)) for _ in range(2)]
    other = paired_bootstrap(base, tuned, np.arange(20), Bootstrap(resamples=200, seed=10))
    assert same[0] == same[1] != other


def test_ties_count_half_and_use_the_tolerance():
    base, tuned = np.array([1.0, 1.0, 1.0, 1.0]), np.array([2.0, 0.5, 1.0, 1.0 + 1e-9])
    assert outcomes(base, tuned) == (1, 2, 1)
    assert compare(base, tuned, np.arange(4)).win_rate == 0.5
    assert outcomes(base, tuned, tolerance=0.0) == (2, 1, 1)


def test_missing_scores_are_counted_and_leave_both_means():
    nan = np.nan
    result = compare(np.array([1.0, nan, 3.0, 5.0]), np.array([2.0, 9.0, nan, 7.0]), np.arange(4))
    assert (result.n, result.missing) == (2, 2)
    assert (result.base_mean, result.tuned_mean, result.difference) == (3.0, 4.5, 1.5)
    nothing = compare(np.array([nan]), np.array([1.0]), np.arange(1))
    assert (nothing.n, nothing.missing, nothing.difference) == (0, 1, None)


def test_one_prompt_has_a_difference_but_no_interval():
    result = compare(np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([0, 0]))
    assert result.difference == 1.5
    assert result.interval is None


def test_zero_base_mean_has_no_relative_change():
    result = compare(np.zeros(3), np.ones(3), np.arange(3))
    assert result.relative is None and result.relative_interval is None


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="equally long"):
        compare(np.zeros(2), np.zeros(3), np.arange(2))
    with pytest.raises(ValueError, match="confidence is 95"):
        Bootstrap(confidence=95)
    with pytest.raises(ValueError, match="resamples is 0"):
        Bootstrap(resamples=0)


def test_distance_and_diversity_in_percent_of_the_range():
    black, white = np.zeros((4, 4, 3)), np.full((4, 4, 3), 255.0)
    assert pixel_distance(black, white) == 100.0
    assert diversity(np.stack([black, black])) == 0.0
    # Pairs of (black, black, white): one alike, two at 100.
    assert diversity(np.stack([black, black, white])) == pytest.approx(200 / 3)
    assert np.isnan(diversity(black[None]))
    noise = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3))
    assert diversity(noise) == pytest.approx(100 / np.sqrt(6), abs=0.5)


def test_a_distribution_is_described_as_scipy_does():
    values = np.append(np.random.default_rng(3).normal(50, 8, 101), np.nan)
    found = describe(values)
    theirs = scipy.stats.describe(values[:-1])
    assert (found["n"], found["missing"]) == (101, 1)
    assert found["mean"] == pytest.approx(theirs.mean) and found["std"] == pytest.approx(theirs.variance**0.5)
    assert found["quantiles"] == pytest.approx(scipy.stats.mstats.mquantiles(values[:-1], QUANTILES, 1, 1))
    assert describe(np.array([3.0]))["std"] is None and describe(np.array([3.0]))["quantiles"] == [3.0] * 5
    empty = describe(np.array([np.nan]))
    assert empty == {"n": 0, "missing": 1, "mean": None, "std": None, "quantiles": None}


def test_every_dimension_is_resampled_alike():
    """So the interval of a sum of dimensions is not wider than the sum of theirs."""
    rng = np.random.default_rng(4)
    base, prompts = np.zeros(30), np.arange(30)
    first = rng.normal(size=30)
    found = compare(base, first, prompts, Bootstrap(500)).interval
    opposite = compare(base, 1.0 - first, prompts, Bootstrap(500)).interval
    assert found is not None and opposite is not None
    assert opposite == pytest.approx((1.0 - found[1], 1.0 - found[0]))
