"""HPDv2: pictures of a prompt that people have ranked (arXiv 2306.09341).

The test split ranks 9 pictures a prompt, the training split has pairs. Test questions are drawn, as many of
each prompt as of the others, and each set of pictures is asked at most once.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from eval.unisim.draw import chosen, evenly, number, placed
from eval.unisim.reading import Ask, Drawn, Reader, finite, read_list, readable
from eval.unisim.samples import Sample, Task

#: Pictures that the published code takes for corrupt; an entry with one of them is not asked.
_CORRUPT = frozenset({"00006811.jpg", "00168743.jpg", "00331911.jpg", "00310087.jpg"})


def hpdv2(ask: Ask) -> Drawn:
    """Which of two pictures people prefer for a prompt."""
    return _train(ask) if ask.split == "train" else _test(ask, 2)


def hpdv2_of(size: int) -> Reader:
    """The reader of questions about `size` pictures."""

    def read(ask: Ask) -> Drawn:
        return _test(ask, size)

    return read


def _test(ask: Ask, size: int) -> Drawn:
    drawn = Drawn()
    entries: dict[str, tuple[str, dict[int, tuple[float, str]]]] = {}
    candidates: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for index, (where, entry) in enumerate(read_list(ask.file("hpdv2/test.json"))):
        pictures = _pictures(ask, drawn, where, entry)
        if pictures is None or entry is None:
            continue
        group = f"{index:04d}"
        entries[group] = entry["prompt"], pictures
        sets = list(combinations(pictures, size))
        clear = [places for places in sets if _best(pictures, places) is not None]
        if len(clear) < len(sets):
            drawn.leave(where, f"{len(sets) - len(clear)} ties: sets of {size} whose lowest rank is shared")
        candidates[group] = [(group, places) for places in clear]
    task: Task = "it_2afc" if ask.key == "it_2afc/hpdv2" else "nafc"
    for group, places in evenly(candidates, ask.count, str, ask.seed, "hpdv2", size):
        prompt, pictures = entries[group]
        identity = f"{group}/{'-'.join(map(str, places))}"
        order = sorted(places, key=lambda place: number("order", ask.seed, identity, place))
        label = order.index(min(places, key=lambda place: pictures[place][0]))
        images = tuple(pictures[place][1] for place in order)
        drawn.samples.append(Sample(identity, task, images, (prompt,), label))
    drawn.notes.append(
        f"Sets of {size} pictures are drawn from the seed and their places, as many of each prompt as of "
        "the others, each set once; the published code draws anew at each look, in an order that depends "
        "on its workers."
    )
    return drawn


def _best(pictures: Mapping[int, tuple[float, str]], places: tuple[int, ...]) -> int | None:
    """The place of lowest rank, which is what people like best; None where two share it."""
    lowest = min(pictures[place][0] for place in places)
    found = [place for place in places if pictures[place][0] == lowest]
    return found[0] if len(found) == 1 else None


def _pictures(
    ask: Ask, drawn: Drawn, where: str, entry: dict[str, Any] | None
) -> dict[int, tuple[float, str]] | None:
    """Place -> rank and name of an entry's pictures that are there; None where it is no entry."""
    images: Any = entry.get("image_path") if entry else None
    ranks: Any = entry.get("rank") if entry else None
    if (
        entry is None
        or not readable(entry.get("prompt"))
        or not isinstance(images, list)
        or not isinstance(ranks, list)
        or len(images) != len(ranks)
        or not all(isinstance(image, str) for image in images)
        or None in map(finite, ranks)
    ):
        drawn.leave(where, "lacks a prompt, or a list image_path and a list rank of numbers that are as long")
        return None
    if _CORRUPT & set(images):
        drawn.leave(where, "has a picture that is published as corrupt")
        return None
    found: dict[int, tuple[float, str]] = {}
    names: set[str] = set()
    for place, (image, rank) in enumerate(zip(images, ranks, strict=True)):
        name = f"hpdv2/{ask.split}/{image}"
        problem = ask.files.problem([name])
        if problem or name in names:
            drawn.leave(where, problem or f"repeats {name}")
            continue
        names.add(name)
        found[place] = float(rank), name
    return found


def _train(ask: Ask) -> Drawn:
    drawn = Drawn()
    for index, (where, entry) in enumerate(read_list(ask.file("hpdv2/train.json"))):
        votes = entry.get("human_preference") if entry else None
        if entry is None or not isinstance(votes, list) or len(votes) != 2 or None in map(finite, votes):
            drawn.leave(where, "lacks human_preference, a list of two numbers")
            continue
        pictures = _pictures(ask, drawn, where, {**entry, "rank": [-float(vote) for vote in votes]})
        if pictures is None or len(pictures) != 2:
            continue
        good, bad = sorted(pictures.values())
        if good[0] == bad[0]:
            drawn.leave(where, "a tie: both pictures have the same preference")
            continue
        images, label = placed(good[1], bad[1], ask.seed, "hpdv2", index)
        drawn.samples.append(Sample(f"{index:06d}", "it_2afc", images, (entry["prompt"],), label))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "hpdv2")
    drawn.notes.append(
        "Which picture comes first is drawn from the seed and the entry's number; the published code "
        "leaves the preferred one first in three of four cases."
    )
    return drawn
