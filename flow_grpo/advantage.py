"""Group-relative advantages: how much better than the other pictures of its own prompt a picture is.

Pure functions of tensors. Both published aggregations of several rewards, under TRL's names:

sum_then_normalize  reward = sum_k w_k r_k; A = (reward - group mean) / (std + eps), std of the group or of
                    the batch, or A = reward - group mean.
normalize_then_sum  GDPO (arXiv 2601.05242): z_k = (r_k - group mean) / (group std + eps) for each
                    dimension, so that a dimension with small spread counts as much as one with large; A =
                    sum_k w_k z_k, normalised over the batch: divided by its standard deviation there. Its
                    mean there, which the paper subtracts, is 0: every z_k sums to 0 over its group.

Standard deviations are population ones, as in flow_grpo; TRL's have N - 1. A dead group is left out of those
over the batch with normalize_then_sum, where the paper's formula counts its zeros.

Two kinds of element get advantage 0 and touch no other's baseline: a missing score (NaN), and a member of a
dead group, one whose rewards tie or that has fewer than two valid members. Dividing a tie by a floor of 1e-8
would make unit advantages out of rounding errors. A third kind gets 0 but was part of its group's statistics:
members that `keep_best` and `keep_worst` leave out.

Shapes: N samples of the whole batch (all processes), K reward dimensions, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from flow_grpo.selection import select


@dataclass(frozen=True)
class AdvantageConfig:
    """How rewards become advantages.

    Attributes:
        aggregation: sum_then_normalize or normalize_then_sum (GDPO).
        std: Divide by the standard deviation of the group, of the whole batch, or by nothing (with
            sum_then_normalize).
        clip: Advantages are clamped to -clip ... clip.
        eps: Added to every standard deviation, in units of the reward.
        scale: Span of one reward dimension (UniPercept's are 0 to 100); sets what counts as a tie.
        tie: A group whose standard deviation is below tie * scale * sum of |weights| is dead.
        keep_best: With keep_worst, train only on so many best and so many worst members of each group (see
            `flow_grpo.selection`); both 0: on all members.
        keep_worst: See keep_best. Both together must be a multiple of optimizer.updates_per_rollout.
    """

    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    std: Literal["group", "batch", "none"] = "group"
    clip: float = 5.0
    eps: float = 1e-4
    scale: float = 100.0
    tie: float = 1e-4
    keep_best: int = 0
    keep_worst: int = 0

    @property
    def selects(self) -> bool:
        """Whether some members of a group may be left out."""
        return self.keep_best + self.keep_worst > 0


@dataclass(frozen=True)
class Advantages:
    """Attributes:
    values: float32 [N]; 0 for missing scores, dead groups and members left out.
    dead_groups: Groups without any signal.
    missing: Samples without a reward.
    group_std: Mean over live groups of the reward's standard deviation within the group; 0 if none is live.
    """

    values: torch.Tensor
    dead_groups: int
    missing: int
    group_std: float


def advantages(
    scores: torch.Tensor, weights: torch.Tensor, groups: torch.Tensor, config: AdvantageConfig
) -> Advantages:
    """Advantages of a batch.

    Args:
        scores: [N, K] raw scores, NaN where missing; a sample with any NaN is missing as a whole.
        weights: [K].
        groups: int [N], the prompt's index in its file. Not its text: equal texts are different groups.
        config: See `AdvantageConfig`.
    """
    scores, weights = scores.double(), weights.double()
    index = torch.unique(groups, return_inverse=True)[1]
    valid = torch.isfinite(scores).all(dim=1)
    scores = torch.where(valid[:, None], scores, torch.zeros_like(scores))
    tie = config.tie * config.scale * weights.abs()
    reward = scores @ weights
    centred, std, alive = _within_group(reward[:, None], index, valid, tie.sum()[None])
    if config.aggregation == "sum_then_normalize":
        live = valid & alive[index, 0]
        spread = {"group": std[index, 0], "batch": _std(reward[valid]).expand(len(reward)), "none": None}[
            config.std
        ]
        values = centred[:, 0] if spread is None else centred[:, 0] / (spread + config.eps)
    else:
        each_centred, each_std, each_alive = _within_group(scores, index, valid, tie)
        z = torch.where(each_alive[index], each_centred / (each_std[index] + config.eps), 0.0)
        values = z @ weights
        live = valid & each_alive[index].any(dim=1)
        values = values / (_std(values[live]) + config.eps)
        alive = each_alive.any(dim=1, keepdim=True)
    if config.selects:
        live = select(values, index, live, config.keep_best, config.keep_worst)
    values = torch.where(live, values, 0.0).clamp(-config.clip, config.clip)
    spread_alive = std[:, 0][alive[:, 0]]
    return Advantages(
        values=values.float(),
        dead_groups=int((~alive[:, 0]).sum()),
        missing=int((~valid).sum()),
        group_std=float(spread_alive.mean()) if len(spread_alive) else 0.0,
    )


def _within_group(
    values: torch.Tensor, index: torch.Tensor, valid: torch.Tensor, tie: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values minus their group's mean [N, K], population std [G, K], and which columns are alive [G, K]."""
    size = int(index.max()) + 1
    mask = valid.double()[:, None]

    def group_sum(column: torch.Tensor) -> torch.Tensor:
        return torch.zeros(size, column.shape[1], dtype=torch.float64, device=column.device).index_add_(
            0, index, column
        )

    count = group_sum(mask)
    divisor = count.clamp_min(1)
    centred = values - (group_sum(values * mask) / divisor)[index]
    std = (group_sum(centred**2 * mask) / divisor).sqrt()
    return centred, std, (count >= 2) & (std >= tie)


def _std(values: torch.Tensor) -> torch.Tensor:
    """Population standard deviation; 0 of nothing."""
    return (
        values.std(correction=0)
        if len(values)
        else torch.zeros((), dtype=torch.float64, device=values.device)
    )
