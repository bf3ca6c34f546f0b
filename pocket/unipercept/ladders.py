"""Ladders: one clean picture at rising severities of one degradation, to teach differences instead of levels.

Between the rungs only the degradation changes, so that what it looks like stands out from what the picture
shows. Mild JPEG, warps and quantisation are hardly learnt without. Malformed things need ladders of their own
(`draw_malformed`): pictures that the pocket FLUX repainted worse and worse (see `redraw`), and things of the
pocket world that are warped, broken or lack parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pocket.unipercept import data, degrade, labels

RUNGS = 4
SHARES = {
    "jpeg": 12.0,
    "noise": 4.0,
    "warp": 3.0,
    "posterise": 2.0,
    "ringing": 2.0,
    "smear": 2.0,
    "missing": 1.5,
    "grid": 1.5,
}
_SEVERITIES = slice(3, 3 + len(data.NAMES))
_CLEAN = slice(3 + len(data.NAMES) + len(labels.MEASURES), None)


def clean_rows(targets: np.ndarray) -> np.ndarray:
    """Rows of a pool that show something and to which nothing was done."""
    return np.flatnonzero((targets[:, _SEVERITIES].sum(1) == 0) & (targets[:, 1] > 60))


def draw(
    pictures: np.ndarray, targets: np.ndarray, rows: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` ladders over random clean rows of a pool.

    Returns uint8 [count * RUNGS, 64, 64, 3] and targets as in the pool, severity rising within each ladder.
    What the spoilt picture measures is not computed: NaN.
    """
    shares = np.array([SHARES.get(name, 1.0) for name in data.NAMES])
    shown, rated = [], []
    for row in rng.choice(rows, count):
        name = data.NAMES[rng.choice(len(shares), p=shares / shares.sum())]
        clean = dict(zip(labels.MEASURES, targets[row, _CLEAN].tolist(), strict=True))
        seed = int(rng.integers(2**31))  # the same random field on every rung
        for severity in _severities(rng, mild=name == "jpeg"):
            target = targets[row].copy()
            target[:3] = labels.rate(clean, degrade.impairment({name: severity}))
            target[3 : _CLEAN.start] = np.nan
            target[_SEVERITIES] = [severity if other == name else 0.0 for other in data.NAMES]
            shown.append(degrade.degrade(pictures[row], {name: severity}, np.random.default_rng(seed)))
            rated.append(target)
    return np.stack(shown), np.stack(rated)


def _severities(rng: np.random.Generator, mild: bool = False) -> list[float]:
    """RUNGS rising severities; `mild` ones mostly start at none and end early."""
    lowest = 0.0 if rng.random() < (0.7 if mild else 0.4) else rng.uniform(0, 0.5)
    reach = rng.uniform(0.15, 0.9) if mild else rng.uniform(0.4, 1)
    steps = rng.uniform(0.25, 1, RUNGS - 1)
    rungs = np.concatenate([[0], np.cumsum(steps) / steps.sum()])
    return (lowest + rungs * (1 - lowest) * reach).tolist()


@dataclass(frozen=True)
class Repainted:
    """Made by `redraw`: pictures [N, RUNGS, 64, 64, 3], severities [N, RUNGS], clean measures [N, M]."""

    pictures: np.ndarray
    severities: np.ndarray
    measures: np.ndarray

    @staticmethod
    def load(folder: Path) -> Repainted:
        """Read a folder of `redraw.build`."""
        pictures = np.load(folder / "pictures.npy", mmap_mode="r")
        return Repainted(pictures, np.load(folder / "severities.npy"), np.load(folder / "measures.npy"))


def draw_malformed(bank: Repainted, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` ladders of malformed things, as from `draw`: two thirds repainted, one third by `degrade`."""
    shown, rated = [], []
    for row in rng.integers(len(bank.pictures), size=count):
        clean = dict(zip(labels.MEASURES, bank.measures[row].tolist(), strict=True))
        pictures, severities = bank.pictures[row], bank.severities[row].tolist()
        losses = [degrade.impairment({"repainted": severity}) for severity in severities]
        if rng.random() < 1 / 3:
            name, seed = str(rng.choice(degrade.MALFORMING)), int(rng.integers(2**31))
            severities = _severities(rng)
            pictures = np.stack(
                [
                    degrade.degrade(bank.pictures[row, 0], {name: severity}, np.random.default_rng(seed))
                    for severity in severities
                ]
            )
            losses = [degrade.impairment({name: severity}) for severity in severities]
        for picture, loss in zip(pictures, losses, strict=True):
            unknown = np.full(_CLEAN.start - 3, np.nan)
            rated.append(np.concatenate([labels.rate(clean, loss), unknown, bank.measures[row]]))
            shown.append(picture)
    return np.stack(shown), np.stack(rated).astype(np.float32)


def difference_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """How wrong the fall from rung to rung is, for scores and targets [ladders * RUNGS, 3].

    The error of each fall in units of 10 points, plus a ranking term that goes on pushing until a fall is
    clear.
    """
    fall = -scores.unflatten(0, (-1, RUNGS)).diff(dim=1)
    wanted = -targets.unflatten(0, (-1, RUNGS)).diff(dim=1)
    return F.smooth_l1_loss(fall / 10, wanted / 10) + F.softplus(-fall / 2).mean()
