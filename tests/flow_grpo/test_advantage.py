"""Advantages in closed form, and what must not reach them: ties, missing scores, equal texts."""

import numpy as np
import pytest
import torch

from flow_grpo.advantage import AdvantageConfig, advantages

NAN = float("nan")
ONE = torch.ones(1)


def run(scores, groups, weights=ONE, **options):
    scores = torch.tensor(scores, dtype=torch.float32)
    scores = scores[:, None] if scores.dim() == 1 else scores
    return advantages(scores, torch.as_tensor(weights), torch.tensor(groups), AdvantageConfig(**options))


def test_group_mean_and_group_std():
    result = run([10.0, 20.0, 30.0, 70.0], [0, 0, 1, 1], std="group")
    # Each pair is +-5 and +-20 around its mean, with population std 5 and 20.
    torch.testing.assert_close(result.values, torch.tensor([-1.0, 1.0, -1.0, 1.0]), rtol=1e-4, atol=0)
    assert result.group_std == pytest.approx(12.5)
    assert (result.dead_groups, result.missing) == (0, 0)


def test_batch_std_is_of_the_raw_rewards():
    rewards = [10.0, 20.0, 30.0, 70.0]
    result = run(rewards, [0, 0, 1, 1], std="batch")
    expected = torch.tensor([-5.0, 5.0, -20.0, 20.0]) / (float(np.std(rewards)) + 1e-4)
    torch.testing.assert_close(result.values, expected.float())


def test_no_std_leaves_differences_from_the_mean():
    result = run([10.0, 12.0], [0, 0], std="none")
    torch.testing.assert_close(result.values, torch.tensor([-1.0, 1.0]))


def test_clip():
    result = run([0.0] * 99 + [100.0], [0] * 100, std="group", clip=5.0)
    assert result.values.max() == 5.0


@pytest.mark.parametrize("std", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_tied_group_is_dead_and_counted(std, aggregation):
    # 1e-3 apart on a scale of 100: below the tie limit of 1e-4 * 100.
    result = run([50.0, 50.001, 10.0, 20.0], [0, 0, 1, 1], std=std, aggregation=aggregation)
    assert result.values[:2].tolist() == [0.0, 0.0]
    assert result.values[3] > 0 and result.dead_groups == 1


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_missing_score_leaves_the_baseline_and_gets_zero(aggregation):
    with_hole = run([10.0, NAN, 20.0, 30.0, 70.0], [0, 0, 0, 1, 1], aggregation=aggregation)
    without = run([10.0, 20.0, 30.0, 70.0], [0, 0, 1, 1], aggregation=aggregation)
    assert with_hole.values[1] == 0 and with_hole.missing == 1
    torch.testing.assert_close(with_hole.values[[0, 2, 3, 4]], without.values)


def test_a_group_with_one_valid_member_is_dead():
    result = run([10.0, NAN, 20.0, 30.0], [0, 0, 1, 1])
    assert result.values[:2].tolist() == [0.0, 0.0] and result.dead_groups == 1


def test_all_scores_missing_gives_zeros_not_nan():
    result = run([NAN, NAN], [0, 0], std="batch")
    assert result.values.tolist() == [0.0, 0.0] and result.missing == 2


def test_groups_are_told_apart_by_index_and_may_come_in_any_order():
    scattered = run([10.0, 30.0, 20.0, 70.0], [7, 3, 7, 3])
    torch.testing.assert_close(scattered.values, torch.tensor([-1.0, -1.0, 1.0, 1.0]), rtol=1e-4, atol=0)


def test_sum_then_normalize_weighs_scores():
    scores = [[10.0, 1.0], [20.0, 3.0]]
    result = run(scores, [0, 0], weights=[1.0, 10.0], std="none")
    torch.testing.assert_close(result.values, torch.tensor([-5.0, 5.0]))  # clipped from -15 and 15
    assert run(scores, [0, 0], weights=[1.0, 10.0], std="none", clip=99).values[1] == 15


def test_normalize_then_sum_gives_dimensions_equal_say_whatever_their_spread():
    # Dimension 0 prefers member 1 by 40 points, dimension 1 member 0 by 0.4 points.
    scores = [[10.0, 50.4], [50.0, 50.0], [20.0, 50.0], [60.0, 50.4]]
    summed = run(scores, [0, 0, 1, 1], weights=[1.0, 1.0], std="group")
    gdpo = run(scores, [0, 0, 1, 1], weights=[1.0, 1.0], aggregation="normalize_then_sum")
    assert summed.values[1] > 0.9
    assert gdpo.values[:2].abs().max() < 1e-3  # opposite and equal
    assert gdpo.values[3] > 1  # both agree
    # Whitened over the batch.
    assert gdpo.values.std(correction=0) == pytest.approx(1, abs=1e-3)


def test_normalize_then_sum_keeps_the_weights():
    scores = [[10.0, 20.0], [20.0, 10.0]]
    result = run(scores, [0, 0], weights=[3.0, 1.0], aggregation="normalize_then_sum")
    assert result.values[1] > 0 > result.values[0]


def test_a_dimension_that_ties_in_a_group_is_silent_there_only():
    scores = [[10.0, 5.0], [10.0, 9.0], [1.0, 5.0], [3.0, 5.0]]
    result = run(scores, [0, 0, 1, 1], weights=[1.0, 1.0], aggregation="normalize_then_sum")
    assert result.dead_groups == 0
    torch.testing.assert_close(result.values, torch.tensor([-1.0, 1.0, -1.0, 1.0]), rtol=1e-3, atol=0)


def test_gdpo_is_the_papers_formula():
    """arXiv 2601.05242: z-score each reward in its group, weigh and sum, z-score that over the batch."""
    rng = np.random.default_rng(0)
    scores, weights = rng.normal(50, [1.0, 20.0, 5.0], size=(4, 6, 3)), np.array([0.5, 0.3, 0.2])
    z = (scores - scores.mean(axis=1, keepdims=True)) / (scores.std(axis=1, keepdims=True) + 1e-4)
    total = z @ weights
    expected = (total - total.mean()) / (total.std() + 1e-4)
    result = run(
        scores.reshape(24, 3).tolist(),
        np.repeat(np.arange(4), 6).tolist(),
        weights=weights,
        aggregation="normalize_then_sum",
        eps=1e-4,
    )
    np.testing.assert_allclose(result.values, expected.flatten(), atol=1e-5)


def test_gdpo_of_one_reward_is_whitened_too():
    result = run([10.0, 20.0, 30.0, 70.0], [0, 0, 1, 1], aggregation="normalize_then_sum")
    torch.testing.assert_close(result.values, torch.tensor([-1.0, 1.0, -1.0, 1.0]), rtol=1e-3, atol=0)
