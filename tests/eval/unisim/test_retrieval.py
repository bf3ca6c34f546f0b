"""Average precision of revisited Oxford and Paris: by hand, and against the area as it was first written."""

import math

import numpy as np
import pytest

from eval.unisim.retrieval import average_precision, mean_of_settings, medium_and_hard, resampled


def walked(order: list[int], positives: set[int], junk: set[int]) -> float:
    """The area, walked picture by picture as in the evaluation of Oxford5k (Philbin et al. 2007)."""
    recall, precision, area, seen, found = 0.0, 1.0, 0.0, 0, 0
    for picture in order:
        if picture in junk:
            continue
        found += picture in positives
        seen += 1
        new_recall, new_precision = found / len(positives), found / seen
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


@pytest.mark.parametrize(
    ("order", "positives", "junk", "expected"),
    [
        ([0, 1, 2, 3], [0, 1], [], 1.0),
        ([2, 0, 1], [0], [], (0 / 1 + 1 / 2) / 2),  # second place: before it 0 of 1, at it 1 of 2
        ([2, 0, 1], [0], [2], 1.0),  # junk in front does not count
        ([0, 2, 1], [0, 1], [], (1 + (1 / 2 + 2 / 3) / 2) / 2),
        ([0, 2], [0, 1], [], 1 / 2),  # a positive that is not ranked adds nothing, and counts
        ([1, 0], [0], [1], 1.0),
    ],
)
def test_average_precision_by_hand(order: list[int], positives: list[int], junk: list[int], expected: float):
    assert average_precision(np.array(order), positives, junk) == pytest.approx(expected)


def test_average_precision_is_the_area_that_is_walked():
    rng = np.random.default_rng(0)
    for _ in range(200):
        order, parts = rng.permutation(40), rng.permutation(40)
        ends = np.sort(rng.integers(1, 40, 2))
        positives, junk = parts[: ends[0]], parts[ends[0] : ends[1]]
        slow = walked(order.tolist(), set(positives.tolist()), set(junk.tolist()))
        assert average_precision(order, positives, junk) == pytest.approx(slow, abs=1e-12)


def test_medium_takes_easy_and_hard_and_hard_takes_easy_for_junk():
    order = np.array([4, 0, 3, 1, 2])  # 0 easy, 1 hard, 2 negative, 3 junk, 4 negative
    medium, hard = medium_and_hard(order, [0], [1], [3])
    assert medium == pytest.approx(average_precision(np.array([4, 0, 1, 2]), [0, 1]))
    assert hard == pytest.approx(average_precision(np.array([4, 1, 2]), [1]))
    medium, hard = medium_and_hard(order, [0], [], [])
    assert medium == pytest.approx((0 + 1 / 2) / 2) and math.isnan(hard)


def test_a_query_without_a_positive_counts_in_no_mean():
    precisions = np.array([[0.5, np.nan], [1.0, 0.25], [np.nan, np.nan]])
    assert mean_of_settings(precisions) == (0.75, 0.25, 0.5)
    assert mean_of_settings(precisions[2:]) == (None, None, None)
    assert mean_of_settings(precisions[:1]) == (0.5, None, None)


def test_resampled_intervals_hold_the_mean_and_shrink_with_queries():
    rng = np.random.default_rng(1)
    many = rng.uniform(size=(400, 2))
    few = many[:25]
    for precisions in (few, many):
        low, high = resampled(precisions, 0.95) or (1.0, 0.0)
        assert low < (mean_of_settings(precisions)[2] or 0.0) < high
    width = [np.subtract(*(resampled(p, 0.95) or (0.0, 0.0))[::-1]) for p in (few, many)]
    # the deviation of a mean of 2 uniform numbers over n queries: sqrt(1 / 24 / n)
    assert width[1] == pytest.approx(2 * 1.96 * math.sqrt(1 / 24 / 400), rel=0.15)
    assert width[0] > 3 * width[1]
    assert resampled(many, 0.95) == resampled(many, 0.95) != resampled(many, 0.95, seed=1)
    assert resampled(many[:1], 0.95) is None
    assert resampled(np.full((5, 2), np.nan), 0.95) is None
