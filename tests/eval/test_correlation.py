"""Agreement of scores with ratings, against scipy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from eval.correlation import Unfit, agreement, fit_logistic, intervals, plcc, srcc
from eval.metrics import Bootstrap
from eval.proportion import wilson

FEW = Bootstrap(resamples=200)


def draw(seed: int, n: int = 60, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ratings = rng.normal(size=n)
    scores = ratings + rng.normal(size=n)
    return (scores.round(), ratings.round()) if ties else (scores, ratings)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_correlations_are_scipys(seed: int, ties: bool):
    x, y = draw(seed, ties=ties)
    found = agreement(x, y, FEW)
    assert found.srcc == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.plcc == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert found.krcc == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found.n == 60 and found.undefined is None


def test_ties_by_hand():
    x, y = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    # ranks 1, 2.5, 2.5, 4 against 1 to 4: covariance 4.5, squares 4.5 and 5
    assert srcc(x, y) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    # 5 pairs agree, 1 is tied in x: tau-b = 5 / sqrt(5 * 6)
    assert agreement(x, y, FEW).krcc == pytest.approx(5 / np.sqrt(30))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_units_do_not_matter(scale: float):
    x, y = draw(0)
    here, there = agreement(x, y, FEW), agreement(scale * x + 7 * scale, 100 * y, FEW)
    for name in ("srcc", "plcc", "krcc", "plcc_fitted"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), abs=1e-6), name
    assert here.rmse_fitted is not None
    assert there.rmse_fitted == pytest.approx(100 * here.rmse_fitted, rel=1e-4)


def test_a_resample_is_ranked_as_if_it_were_a_sample():
    x, y = draw(3, n=25, ties=True)
    bootstrap = Bootstrap(resamples=64, confidence=0.9, seed=5)
    drawn = np.random.default_rng(5).integers(25, size=(64, 25))
    one_by_one = [
        (stats.spearmanr(x[at], y[at]).statistic, stats.pearsonr(x[at], y[at]).statistic) for at in drawn
    ]
    expected = np.percentile(one_by_one, [5, 95], axis=0)
    found = np.array(intervals(x, y, bootstrap), dtype=float)
    assert np.allclose(found, expected.T, atol=1e-12)


def test_intervals_cover_what_they_say():
    truth, held = 0.6, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=80)
        y = truth * x + np.sqrt(1 - truth**2) * rng.normal(size=80)
        interval = intervals(x, y, Bootstrap(resamples=300, confidence=0.9))[1]
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
    assert 165 <= held <= 195


def test_a_logistic_is_found_again():
    x = np.linspace(20, 80, 40)
    y = 1.2 + 3.5 / (1 + np.exp(-(x - 55) / 6.0))
    fit = fit_logistic(x, y)
    assert (fit.top, fit.bottom, fit.middle, fit.width) == pytest.approx((4.7, 1.2, 55, 6), rel=1e-3)
    found = agreement(x, y, FEW)
    assert found.plcc_fitted == pytest.approx(1, abs=1e-6) and found.rmse_fitted == pytest.approx(0, abs=1e-3)
    assert found.plcc is not None and found.plcc < 0.99


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_no_worse_than_a_line_or_than_scipys_own(seed: int):
    from scipy.optimize import curve_fit

    x, y = draw(seed)
    found = agreement(x, y, FEW)
    assert found.plcc_fitted is not None and found.plcc is not None
    assert found.plcc_fitted > found.plcc - 2e-3

    def curve(x, a, b, c, d):
        return b + (a - b) / (1 + np.exp(-(x - c) / np.abs(d)))

    theirs, _ = curve_fit(curve, x, y, p0=(y.max(), y.min(), x.mean(), x.std() / 4), maxfev=100_000)
    error = np.sqrt(np.mean((curve(x, *theirs) - y) ** 2))
    assert found.rmse_fitted == pytest.approx(error, rel=5e-3)


def test_scores_that_run_against_the_ratings_do_not_look_like_agreement():
    x, y = draw(1)
    right, wrong = agreement(x, y, FEW), agreement(-x, y, FEW)
    assert right.plcc_fitted is not None and wrong.plcc_fitted is not None
    assert wrong.plcc_fitted == pytest.approx(-right.plcc_fitted, abs=1e-4)
    assert wrong.rmse_fitted == pytest.approx(right.rmse_fitted, rel=1e-3)


@pytest.mark.parametrize(
    ("scores", "ratings", "reason"),
    [
        ([5, 5, 5, 5], [1, 2, 3, 4], "all scores are equal (5)"),
        ([1, 2, 3], [4, 4, 4], "all ratings are equal (4)"),
        ([1, 2], [1, 2], "2 pictures with score and rating; a correlation needs at least 3"),
        ([], [], "0 pictures"),
    ],
)
def test_what_has_no_correlation_says_why(scores: list[float], ratings: list[float], reason: str):
    found = agreement(np.array(scores, dtype=float), np.array(ratings, dtype=float))
    assert found.srcc is found.plcc is found.krcc is found.plcc_fitted is found.rmse_fitted is None
    assert found.undefined is not None and found.undefined.startswith(reason)
    assert found.unfitted == found.undefined


def test_too_few_to_fit_still_correlate():
    found = agreement(np.array([1.0, 2, 4, 3]), np.array([1.0, 2, 3, 4]), FEW)
    assert found.srcc == pytest.approx(0.8)
    assert found.fit is None and found.unfitted is not None and "at least 5" in found.unfitted
    with pytest.raises(Unfit, match="equal"):
        fit_logistic(np.ones(9), np.arange(9.0))


def test_what_is_not_finite_is_refused_rather_than_dropped():
    with pytest.raises(ValueError, match="finite"):
        agreement(np.array([1.0, np.nan, 3]), np.array([1.0, 2, 3]))
    with pytest.raises(ValueError, match="equally long"):
        agreement(np.arange(3.0), np.arange(4.0))


@pytest.mark.parametrize(("right", "of"), [(0, 10), (3, 10), (10, 10), (77, 100), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(right: int, of: int, confidence: float):
    expected = stats.binomtest(right, of).proportion_ci(confidence, method="wilson")
    assert wilson(right, of, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_solves_its_equation_and_refuses_nonsense():
    low, high = wilson(8, 20) or (0, 0)
    for end in (low, high):  # |share - p| = z sqrt(p (1 - p) / n)
        assert abs(0.4 - end) == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(end * (1 - end) / 20))
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="between none and all"):
        wilson(3, 2)


def test_plcc_of_a_line_is_one():
    assert plcc(np.arange(5.0), 3 - 2 * np.arange(5.0)) == pytest.approx(-1)


def test_an_outlier_against_the_order_is_no_crash():
    x, y = np.arange(9.0), np.array([1, 2, 3, 4, 5, 6, 7, 8, -99.0])
    found = agreement(x, y, FEW)
    assert found.srcc is not None and found.srcc > 0 and found.plcc is not None and found.plcc < 0
    assert (found.plcc_fitted is None) == (found.unfitted is not None)
