"""Best and worst of each group: train on the members that say most, and share them out evenly.

DanceGRPO's best-of-N (arXiv 2505.07818): advantages are those of the whole group, whose mean and standard
deviation they came from; then only the members at both ends are trained on. What is left out costs no forward
or backward pass, neither of the policy nor of the reference.

Shapes: N samples of the whole batch, G groups of this process, M members.
"""

from __future__ import annotations

import torch


def select(
    values: torch.Tensor, index: torch.Tensor, live: torch.Tensor, best: int, worst: int
) -> torch.Tensor:
    """Which samples are among the `best` highest or the `worst` lowest of their group: bool [N].

    Args:
        values: [N], what members are ranked by; of equal ones the first counts as the lower.
        index: int [N], group of each sample, counted from 0.
        live: bool [N]; others are neither ranked nor chosen.
        best: Chosen from the top of each group.
        worst: Chosen from its bottom. A group with fewer live members than both together keeps them all.
    """
    kept = torch.zeros_like(live)
    for group in range(int(index.max()) + 1):
        members = (live & (index == group)).nonzero().flatten()
        ranked = members[values[members].argsort(stable=True)]
        kept[ranked[:worst]] = True
        kept[ranked[max(0, len(ranked) - best) :]] = True
    return kept


def deal(values: torch.Tensor, updates: int, keep: int) -> torch.Tensor:
    """Which update trains on each member: int [G, M], -1 where none does; each has as many of every group.

    The chosen ones are dealt by rank, the best from the first update on and the worst from the last one back:
    with two of each and two updates, one takes the best and the second worst, the other the second best and
    the worst. A group with fewer chosen ones is filled up with others, whose advantage is 0, so that every
    process has as many examples.

    Args:
        values: Advantages [G, M]; those that are 0 were not chosen.
        updates: Divides `keep`.
        keep: Members of each group that are trained on, at least as many as were chosen.
    """
    rows = [_deal_group(row.tolist(), updates, keep // updates) for row in values]
    return torch.tensor(rows, dtype=torch.int64, device=values.device).view(values.shape)


def _deal_group(values: list[float], updates: int, each: int) -> list[int]:
    share, free = [-1] * len(values), [each] * updates
    order = sorted(range(len(values)), key=lambda member: -values[member])
    best = [member for member in order if values[member] > 0]
    worst = [member for member in reversed(order) if values[member] < 0]
    others = [member for member, value in enumerate(values) if value == 0]
    wishes = [(member, rank % updates) for rank, member in enumerate(best)]
    wishes += [(member, updates - 1 - rank % updates) for rank, member in enumerate(worst)]
    wishes += [(member, 0) for member in others[: each * updates - len(wishes)]]
    for member, wish in wishes:
        share[member] = wish if free[wish] else max(range(updates), key=free.__getitem__)
        free[share[member]] -= 1
    return share
