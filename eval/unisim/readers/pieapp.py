"""PieAPP: pairs of distorted pictures with the share of people who prefer one (arXiv 1806.02067).

Pairs are asked where the share is below 0.4 or above 0.6, as published.
"""

from __future__ import annotations

from collections.abc import Iterator

from eval.unisim.draw import chosen, placed
from eval.unisim.reading import Ask, Drawn, finite, read_table
from eval.unisim.samples import Sample

_LOW, _HIGH = 0.4, 0.6


def pieapp_pairs(ask: Ask) -> Drawn:
    """Which of two distorted pictures is closer to the reference."""
    drawn = Drawn()
    for where, reference, first, other, share in _rows(ask, drawn):
        name = f"{reference}/{_stem(first)}/{_stem(other)}"
        images = _images(ask, reference, first, other)
        problem = ask.files.problem(images)
        if problem:
            drawn.leave(where, problem)
            continue
        drawn.samples.append(Sample(name, "img_2afc", images, label=int(share < 0.5)))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "pieapp")
    return drawn


def pieapp_quality(ask: Ask) -> Drawn:
    """Which is better: the reference or a distorted picture; each distorted picture once."""
    drawn = Drawn()
    distorted = {
        (reference, name) for _, reference, first, other, _ in _rows(ask, drawn) for name in (first, other)
    }
    for reference, name in sorted(distorted):
        key = f"{reference}/{_stem(name)}"
        good, bad = _images(ask, reference, name)
        problem = ask.files.problem((good, bad))
        if problem:
            drawn.leave(key, problem)
            continue
        images, label = placed(good, bad, ask.seed, "pieapp", key)
        drawn.samples.append(Sample(key, "iqa", images, label=label))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "pieapp")
    drawn.notes.append(
        "The reference is the better one. The published code asks a distorted picture as often as it has "
        "pairs; here it is asked once. Which picture comes first is drawn from the seed and the names."
    )
    return drawn


def _rows(ask: Ask, drawn: Drawn) -> Iterator[tuple[str, str, str, str, float]]:
    """Where a pair stands, its reference, first and other picture, and the share of people for the first."""
    column = "preference for A" if ask.split == "test" else "processed preference for A"
    unsure = itself = 0
    seen: dict[frozenset[str], str] = {}
    for reference in _references(ask, drawn):
        table = f"pie_app/labels/{ask.split}/{reference}_pairwise_labels.csv"
        if ask.files.problem([table]):
            drawn.leave(reference, f"{table}: missing")
            continue
        columns = ("ref. image", "distorted image A", "distorted image B", column)
        for where, row in read_table(ask.root / table, columns):
            share = finite(row[column]) if row else None
            if row is None or share is None or not 0 <= share <= 1:
                drawn.leave(where, "has not as many cells as the first line" if row is None else
                            f"{column} is {row[column]!r}; it must be a share, from 0 to 1")  # fmt: skip
                continue
            first, other = row["distorted image A"], row["distorted image B"]
            if row["ref. image"] in (first, other):
                itself += 1
            elif _LOW <= share <= _HIGH:
                unsure += 1
            elif first == other or frozenset((first, other)) in seen:
                drawn.leave(where, f"repeats the pair of {seen.get(frozenset((first, other)), 'itself')}")
            else:
                seen[frozenset((first, other))] = where
                yield where, reference, first, other, share
    drawn.notes.append(
        f"{unsure} pairs with a preference of {_LOW} to {_HIGH} are not asked, nor are {itself} in which "
        "the reference is one of the two, as published."
    )


def _references(ask: Ask, drawn: Drawn) -> list[str]:
    name = f"pie_app/{ask.split}_reference_list.txt"
    lines = ask.file(name).read_text(encoding="utf-8-sig").splitlines()
    found: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        reference = line.strip().removesuffix(".png")
        if reference in found:
            drawn.leave(f"{name}, line {number}", f"repeats {reference}")
        elif reference:
            found[reference] = None
    return list(found)


def _images(ask: Ask, reference: str, *names: str) -> tuple[str, ...]:
    folder = f"pie_app/distorted_images/{ask.split}/{reference}"
    return (
        f"pie_app/reference_images/{ask.split}/{reference}.png",
        *(f"{folder}/{name}" for name in names),
    )


def _stem(name: str) -> str:
    return name.removesuffix(".png")
