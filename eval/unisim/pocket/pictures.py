"""The shipped pictures by what they show and what was done to them, as their names say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from eval.unisim.pixels import STATISTICS
from eval.unisim.samples import Attribute
from pocket.data import Scene, caption
from pocket.unipercept.benchmark import CROPS, HALVES, SCENES, SHOWS
from pocket.unipercept.degrade import impairment

#: Severities up to this one are mild.
MILD = 0.35


@dataclass(frozen=True)
class Picture:
    """One shipped picture, by its name.

    Attributes:
        file: Its file.
        of: The clean picture that it is a copy of; itself, where it is clean.
        kind: What was done to it; empty where it is clean.
        severity: How strongly, 0 to 1.
        half: The half that it was done to; empty where it is the whole picture.
    """

    file: str
    of: str
    kind: str = ""
    severity: float = 0.0
    half: str = ""

    @property
    def loss(self) -> float:
        """Of quality, in nepers; 0 of a clean picture."""
        return impairment({self.kind: self.severity})[1] if self.kind else 0.0

    @property
    def source(self) -> str:
        """The photograph that it is a crop of, or the thing that is painted."""
        return CROPS[self.of][0] if self.of in CROPS else self.of


def read_pictures(folder: Path) -> list[Picture]:
    """Every picture of a folder, by the names that `pocket.unipercept.benchmark` gives.

    Raises:
        ValueError: A name is none of those.
    """
    found = []
    clean = [*CROPS, *(noun.replace(" ", "_") for noun in SCENES)]
    for path in sorted(folder.glob("*.png")):
        of = next((name for name in clean if path.stem == name or path.stem.startswith(f"{name}_")), None)
        kind, _, last = path.stem.removeprefix(of or "").removeprefix("_").rpartition("_")
        if of is None or (path.stem != of and last not in HALVES and not last.isdigit()):
            raise ValueError(f"{path}: no picture of the small benchmark; write it again with its program")
        half = last if last in HALVES else ""
        severity = 0.9 if half else int(last or 0) / 100
        found.append(Picture(path.name, of, kind, severity, half))
    return found


class World:
    """The pictures by what they show.

    Attributes:
        folder: Where they lie.
        clean: Clean picture -> it, in the order of names.
        copies: Clean picture -> its spoilt copies, of which no half is clean, mildest first.
        halves: Those of which one half is clean.
        things: Clean pictures of painted things, whose captions the pocket models know.
        photographs: Clean crops of photographs.
    """

    def __init__(self, folder: Path) -> None:
        pictures = read_pictures(folder)
        self.folder = folder
        self.clean = {one.of: one for one in pictures if not one.kind}
        self.halves = [one for one in pictures if one.half]
        self.copies = {
            name: sorted(
                (one for one in pictures if one.of == name and one.kind and not one.half),
                key=lambda one: one.severity,
            )
            for name in self.clean
        }
        self.things = [name for name in self.clean if name not in CROPS]
        self.photographs = [name for name in self.clean if name in CROPS]

    def others(self, name: str, names: Sequence[str] | None = None) -> list[str]:
        """Clean pictures that show something else."""
        source = self.clean[name].source
        return [one for one in names or self.clean if self.clean[one].source != source]

    def mild(self, name: str) -> list[Picture]:
        """The picture and its mildly spoilt copies."""
        return [self.clean[name], *(one for one in self.copies[name] if one.severity <= MILD)]

    def statistic(self, name: str, attribute: Attribute) -> float:
        """What is measured of a clean picture."""
        return measured(str(self.folder / self.clean[name].file), attribute)


@cache
def measured(path: str, attribute: Attribute) -> float:
    """What `eval.unisim.pixels` measures of a picture."""
    with PIL.Image.open(path) as image:
        return STATISTICS[attribute](np.asarray(image.convert("RGB")))


def describe(name: str, noun: str = "", **changes: str) -> str:
    """What a clean picture shows, in words; of a painted thing, another noun, place or background instead."""
    if name in SHOWS:
        return SHOWS[name]
    known = name.replace("_", " ")
    size, place, background = SCENES[known]
    scene = {"size": size, "place": place, "background": background} | changes
    return caption(noun.replace("_", " ") or known, Scene(0, **scene))
