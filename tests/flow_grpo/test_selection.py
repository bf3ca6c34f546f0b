"""Best and worst of each group: who is chosen, which update gets them, and that the others cost nothing."""

import json

import pytest
import torch

import flow_grpo.update
from flow_grpo.advantage import AdvantageConfig, advantages
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


def test_every_update_gets_equally_many_of_each_group_and_of_the_chosen():
    values = torch.tensor(
        [[3.0, 0.0, 0.0, 2.0, -3.0, 0.0, -2.0, 0.0], [0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0]]
    )
    share = deal(values, 2)
    assert share[0, [0, 6]].tolist() == [0, 0] and share[0, [3, 4]].tolist() == [1, 1]
    assert share[1, 1] != share[1, 7]
    assert all(row.bincount(minlength=2).tolist() == [4, 4] for row in share)


@pytest.mark.parametrize(("best", "worst"), [(3, 1), (1, 3), (4, 0), (2, 2)])
def test_uneven_ends_are_dealt_evenly_as_well(best, worst):
    row = [float(value) for value in [*range(1, best + 1), *range(-worst, 0)]] + [0.0] * 4
    share = deal(torch.tensor([row]), 2)[0]
    assert share[: best + worst].bincount(minlength=2).tolist() == [2, 2]
    assert share.bincount(minlength=2).tolist() == [4, 4]


def test_a_group_without_signal_is_dealt_by_member():
    assert deal(torch.zeros(1, 4), 2).tolist() == [[0, 0, 1, 1]]


def test_members_left_out_cost_no_forward_pass(arguments, tmp_path, monkeypatch):
    """Two prompts x 4 members x 2 steps; of each group one best and one worst are trained on."""
    seen: list[int] = []
    original = flow_grpo.update.Updater._loss

    def counted(self, part, *rest):
        seen.append(len(part))
        return original(self, part, *rest)

    monkeypatch.setattr(flow_grpo.update.Updater, "_loss", counted)
    options = {"advantage.keep_best": 1, "advantage.keep_worst": 1, "optimizer.updates_per_rollout": 2}
    assert main(arguments(iterations=1, **options)) == 0
    assert seen == [4, 4]  # each update: one member of each of two groups, two steps
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("values", [(2, 1), (4, 2), (-2, 2)])
def test_what_cannot_be_dealt_is_refused(arguments, capsys, values):
    options = {"advantage.keep_best": values[0], "advantage.keep_worst": values[1]}
    with pytest.raises(SystemExit):
        main(arguments(**options, **{"optimizer.updates_per_rollout": 2}))
    assert "advantage.keep_best" in capsys.readouterr().err
