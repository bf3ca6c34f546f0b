"""The data sets that UniPercept is rated on, and what was published about them.

Sizes and scales were counted in the files of github.com/thunderbolt215/UniPercept (`benchmark/VR`), commit
34660ff, and, for PARA, of github.com/thunderbolt215/ArtiMuse (`test_datasets/PARA/test.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

#: Whose figures `published` has, each (SRCC, PLCC).
SOURCE = "UniPercept, arXiv 2512.21675, table 1"
MODELS = ("UniPercept", "ArtiMuse", "InternVL3-8B")
#: What a rating is of.
Dimension: TypeAlias = Literal["iaa", "iqa", "ista"]
DIMENSIONS: tuple[Dimension, ...] = ("iaa", "iqa", "ista")


@dataclass(frozen=True)
class RatedSet:
    """A published test set.

    Attributes:
        rows: Entries of its file.
        scale: Lowest and highest rating in it.
        dimension: What was rated: `iaa`, `iqa` or `ista`.
        folder: Where its file and its pictures lie below the root of all of them.
        file: Its file in that folder; the pictures are in `image`.
        published: Model -> (SRCC, PLCC), see `SOURCE`; ArtiMuse is its checkpoint trained on ArtiMuse-10K.
    """

    rows: int
    scale: tuple[float, float]
    dimension: Dimension
    folder: str
    file: str
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def _published(*pairs: tuple[float, float] | None) -> dict[str, tuple[float, float]]:
    return {model: pair for model, pair in zip(MODELS, pairs, strict=True) if pair is not None}


SETS: dict[str, RatedSet] = {
    "ArtiMuse-10K": RatedSet(
        1002, (1.0, 9.78), "iaa", "IAA/ArtiMuse-10K", "ArtiMuse-10K.json",
        _published((0.746, 0.738), (0.614, 0.627), (0.245, 0.211)),
    ),
    "AVA": RatedSet(
        19930, (2.07, 8.3), "iaa", "IAA/AVA", "AVA.json",
        _published((0.589, 0.577), (0.397, 0.385), (0.372, 0.344)),
    ),
    "TAD66K": RatedSet(
        14079, (1.39, 9.28), "iaa", "IAA/TAD66K", "TAD66K.json",
        _published((0.336, 0.346), (0.230, 0.232), (0.205, 0.191)),
    ),
    "FLICKR-AES": RatedSet(
        4737, (0.2, 1.0), "iaa", "IAA/FLICKR-AES", "FLICKR-AES.json",
        _published((0.688, 0.681), (0.349, 0.334), (0.547, 0.476)),
    ),
    "KonIQ-10K": RatedSet(
        2015, (4.167, 88.244), "iqa", "IQA/KonIQ-10K", "KonIQ-10K.json",
        _published((0.940, 0.949), None, (0.574, 0.646)),
    ),
    "SPAQ": RatedSet(
        2224, (4.0, 93.67), "iqa", "IQA/SPAQ", "SPAQ.json",
        _published((0.904, 0.895), None, (0.828, 0.800)),
    ),
    "KADID": RatedSet(
        2000, (1.03, 4.87), "iqa", "IQA/KADID", "KADID.json",
        _published((0.872, 0.870), None, (0.496, 0.475)),
    ),
    "PIPAL": RatedSet(
        4640, (1.0, 4.675), "iqa", "IQA/PIPAL", "PIPAL.json",
        _published((0.581, 0.594), None, (0.435, 0.459)),
    ),
    "ISTA-10K": RatedSet(
        970, (5.0, 100.0), "ista", "ISTA/ISTA-10K", "ISTA-10K.json",
        _published((0.778, 0.767), None, (-0.127, 0.046)),
    ),
    "PARA": RatedSet(3000, (1.16, 4.3), "iaa", "IAA/PARA", "test.json"),
}  # fmt: skip
