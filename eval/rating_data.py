"""A file of ratings, read so that nothing gets lost unseen: what cannot be used is kept with its reason."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.rating_config import RatingSet
from eval.rating_sets import SETS


@dataclass(frozen=True)
class Rated:
    """An entry that can be used: `image` as the file names it, `path` where it should lie, and its rating."""

    image: str
    path: str
    rating: float


@dataclass(frozen=True)
class Unusable:
    """An entry that cannot: where it stands, its image if it has one, and what is wrong."""

    where: str
    image: str | None
    reason: str


@dataclass(frozen=True)
class Repeated:
    """A picture that a file has more than once.

    Attributes:
        image: Its name.
        ratings: Each of its ratings, in order.
    """

    image: str
    ratings: tuple[float, ...]

    @property
    def contradictory(self) -> bool:
        """Whether the ratings differ."""
        return len(set(self.ratings)) > 1


@dataclass(frozen=True)
class RatingData:
    """What a file holds.

    Attributes:
        name: Of the set.
        place: Where it was read.
        rows: Entries in the file.
        rated: Those that are compared, in order.
        unusable: Those that cannot be.
        repeated: Pictures that it has more than once.
        left_out: Entries left out because their picture came before.
        sha256: Of the file.
        notes: What a reader must know, one sentence each.
        problem: Why the file could not be read at all; None where it was.
    """

    name: str
    place: RatingSet
    rows: int = 0
    rated: tuple[Rated, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    repeated: tuple[Repeated, ...] = ()
    left_out: int = 0
    sha256: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)
    problem: str | None = None


def read_ratings(name: str, place: RatingSet, duplicates: str = "keep") -> RatingData:
    """Read a set.

    Args:
        name: Of the set; of a published one its size and scale are checked.
        place: Its file and the folder of its pictures.
        duplicates: `keep` or `first`, see `RatingConfig`.
    """
    assert place.data is not None and place.images is not None
    try:
        content = Path(place.data).read_bytes()
        entries = read_entries(content, place.data, '{"image": NAME, "gt_score": NUMBER}')
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return RatingData(name, place, problem=f"{place.data}: {reason}")
    rated: list[Rated] = []
    unusable: list[Unusable] = []
    for where, entry in entries:
        found = _entry(entry, place.images, where)
        if isinstance(found, Rated):
            rated.append(found)
        else:
            unusable.append(found)
    kept, repeated = _without_duplicates(rated) if duplicates == "first" else (rated, _repeated(rated))
    return RatingData(
        name,
        place,
        len(entries),
        tuple(kept),
        tuple(unusable),
        tuple(repeated),
        len(rated) - len(kept),
        hashlib.sha256(content).hexdigest(),
        tuple(_notes(name, len(entries), rated)),
    )


def read_entries(content: bytes, path: str, form: str) -> list[tuple[str, object]]:
    """Where each entry stands, and the entry; a broken line of a .jsonl file is a ValueError in its place.

    Args:
        content: Of the file.
        path: Its name, by whose ending it is a list or has an entry a line.
        form: What an entry looks like, for messages.

    Raises:
        ValueError: a .json file that is no list; either file without an entry.
    """
    text = content.decode("utf-8-sig")
    found: list[tuple[str, object]] = []
    if path.lower().endswith(".jsonl"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                found.append((f"line {number}", _parsed(line)))
    else:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({error}); it must be a list of entries") from None
        if not isinstance(value, list):
            raise ValueError(f"holds a {type(value).__name__}; it must be a list of entries")
        found = [(f"entry {index}", entry) for index, entry in enumerate(value)]
    if not found:
        raise ValueError(f"is empty; it must have entries {form}")
    return found


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({error})")


def _entry(entry: object, images: str, where: str) -> Rated | Unusable:
    if isinstance(entry, ValueError):
        return Unusable(where, None, str(entry))
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
        return Unusable(where, None, 'no "image"; an entry is {"image": NAME, "gt_score": NUMBER}')
    image, rating = entry["image"], entry.get("gt_score")
    if "gt_score" not in entry:
        return Unusable(where, image, 'no "gt_score"')
    if isinstance(rating, bool) or not isinstance(rating, int | float):
        return Unusable(where, image, f"gt_score is {_short(rating)}, not a number")
    if not math.isfinite(rating):
        return Unusable(where, image, f"gt_score is {rating}, not a finite number")
    return Rated(image, os.path.join(images, image), float(rating))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _repeated(rated: Sequence[Rated]) -> list[Repeated]:
    ratings: defaultdict[str, list[float]] = defaultdict(list)
    for entry in rated:
        ratings[entry.image].append(entry.rating)
    return [Repeated(image, tuple(found)) for image, found in ratings.items() if len(found) > 1]


def _without_duplicates(rated: Sequence[Rated]) -> tuple[list[Rated], list[Repeated]]:
    first = {entry.image: entry for entry in reversed(rated)}
    return [entry for entry in rated if first[entry.image] is entry], _repeated(rated)


def _notes(name: str, rows: int, rated: Sequence[Rated]) -> Iterator[str]:
    known = SETS.get(name)
    if known is None:
        return
    if rows != known.rows:
        yield (
            f"{name} has {rows} entries here and {known.rows} in the published file: the published figures "
            "are of another test set"
        )
    low, high = known.scale
    outside = sum(not low - 0.01 <= entry.rating <= high + 0.01 for entry in rated)
    if outside:
        yield f"{outside} ratings of {name} lie outside {low:g} to {high:g}, the published file's scale"
