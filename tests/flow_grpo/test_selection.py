"""Best and worst of each group: who is chosen, which update gets them, and that the others cost nothing."""

import json
from typing import Any

import pytest
import torch

from flow_grpo.advantage import AdvantageConfig, advantages
from flow_grpo.policy.flux import FluxPolicy
from flow_grpo.selection import deal
from flow_grpo.train import main

NAN = float("nan")


def chosen(scores, groups, **options):
    gains = advantages(
        torch.tensor(scores)[:, None], torch.ones(1), torch.tensor(groups), AdvantageConfig(**options)
    )
    return gains.values


def test_only_the_ends_keep_their_advantage_and_it_is_that_of_the_whole_group():
    scores, groups = [1.0, 5.0, 3.0, 2.0, 40.0, 10.0, 30.0, 20.0], [0] * 4 + [1] * 4
    whole = chosen(scores, groups)
    ends = chosen(scores, groups, keep_best=1, keep_worst=1)
    assert ends.nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert torch.equal(ends[[0, 1, 4, 5]], whole[[0, 1, 4, 5]])


def test_missing_members_are_not_ranked_and_a_small_group_keeps_all_it_has():
    values = chosen([1.0, NAN, 3.0, 9.0, NAN, 2.0, 4.0, NAN], [0] * 4 + [1] * 4, keep_best=2, keep_worst=1)
    assert values.nonzero().flatten().tolist() == [0, 2, 3, 5, 6]


def test_members_are_ranked_before_their_advantages_are_clipped():
    scores = [0.0] * 30 + [100.0, 101.0]
    values = chosen(scores, [0] * 32, keep_best=1, keep_worst=1, clip=1.0)
    assert values[31] == 1.0 and values[30] == 0.0


def test_every_update_gets_equally_many_of_each_group_and_of_both_ends():
    values = torch.tensor(
        [[3.0, 0.0, 0.0, 2.0, -3.0, 0.0, -2.0, 0.0], [0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0]]
    )
    share = deal(values, 2, 4)
    assert share[0].tolist() == [0, -1, -1, 1, 1, -1, 0, -1]
    # A group with too few to choose from is filled up: every process has as many examples.
    assert share[1].tolist() == [0, 0, 1, -1, -1, -1, -1, 1]


@pytest.mark.parametrize(("best", "worst"), [(3, 1), (1, 3), (4, 0), (2, 2)])
def test_uneven_ends_are_dealt_evenly_as_well(best, worst):
    row = [float(value) for value in [*range(1, best + 1), *range(-worst, 0)]] + [0.0] * 4
    share = deal(torch.tensor([row]), 2, 4)[0]
    assert share[: best + worst].bincount(minlength=2).tolist() == [2, 2]
    assert share[best + worst :].tolist() == [-1] * 4


def test_a_group_without_signal_gives_as_many_examples_as_the_others():
    assert deal(torch.zeros(1, 4), 2, 2).tolist() == [[0, 1, -1, -1]]


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_members_left_out_cost_no_forward_pass(arguments, tmp_path, monkeypatch, kl_weight):
    """Two prompts x 4 members x 2 steps; of each group one best and one worst are trained on."""
    seen: list[int] = []
    original = FluxPolicy.velocity

    def counted(self, x, *rest):
        seen.append(len(x))
        return original(self, x, *rest)

    monkeypatch.setattr(FluxPolicy, "velocity", counted)
    options: dict[str, Any] = {"advantage.keep_best": 1, "advantage.keep_worst": 1}
    options |= {"optimizer.updates_per_rollout": 2}
    options |= {"prompts.validation": "null", "regularizer.kl_weight": kl_weight}
    assert main(arguments(iterations=1, **options)) == 0
    sampled, trained = 4 * 8, 2 * 2 * 2  # steps x pictures; groups x members x steps
    # A reference is one more forward pass of what is trained on.
    assert sum(seen) == sampled + trained * (2 if kl_weight else 1)
    assert seen[-2:] == [4, 4]  # each update: one member of each group, two steps
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("values", [(2, 1), (4, 2), (-2, 2)])
def test_what_cannot_be_dealt_is_refused(arguments, capsys, values):
    options = {"advantage.keep_best": values[0], "advantage.keep_worst": values[1]}
    with pytest.raises(SystemExit):
        main(arguments(**options, **{"optimizer.updates_per_rollout": 2}))
    assert "advantage.keep_best" in capsys.readouterr().err
