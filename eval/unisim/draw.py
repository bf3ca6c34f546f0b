"""Chance that depends on a seed and on what is drawn, and on nothing else.

A draw is the SHA-256 of the seed and of names, so neither the order of a folder nor the number of processes
changes it, and a row that is missing changes no other row's draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def number(*parts: object) -> int:
    """A whole number in [0, 2^64), the same for the same parts."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def below(limit: int, *parts: object) -> int:
    """A whole number in [0, limit)."""
    return number(*parts) % limit


def placed(right: T, wrong: T, *parts: object) -> tuple[tuple[T, T], int]:
    """Both, in an order that is drawn, and the index of the right one."""
    label = below(2, "place", *parts)
    return ((wrong, right) if label else (right, wrong)), label


def chosen(items: Sequence[T], count: int | None, key: Callable[[T], str], *parts: object) -> list[T]:
    """`count` of the items, in their order; all where there are no more, or `count` is None."""
    if count is None or count >= len(items):
        return list(items)
    drawn = sorted(range(len(items)), key=lambda i: (number("choose", *parts, key(items[i])), i))
    return [items[i] for i in sorted(drawn[:count])]


def evenly(
    groups: Mapping[str, Sequence[T]], count: int | None, key: Callable[[T], str], *parts: object
) -> list[T]:
    """`count` of the groups' items, as many of each group as of the others as far as they have them."""
    ranked: list[tuple[int, int, str, int]] = []
    for group, items in groups.items():
        drawn = sorted((number("evenly", *parts, group, key(item)), i) for i, item in enumerate(items))
        ranked += [(rank, value, group, i) for rank, (value, i) in enumerate(drawn)]
    kept = {entry[2:] for entry in sorted(ranked)[: len(ranked) if count is None else count]}
    return [item for group, items in groups.items() for i, item in enumerate(items) if (group, i) in kept]


def pairs(size: int, *parts: object) -> Iterator[tuple[int, int]]:
    """Indices of distinct pairs out of `size` things, in an order that is drawn, until there are no more."""
    seen: set[tuple[int, int]] = set()
    turn = 0
    while len(seen) < size * (size - 1) // 2:
        first = below(size, "first", turn, *parts)
        other = below(size - 1, "other", turn, *parts)
        other += other >= first
        turn += 1
        pair = (min(first, other), max(first, other))
        if pair not in seen:
            seen.add(pair)
            yield first, other


def triplets(
    groups: Mapping[str, Sequence[Sequence[str]]], count: int, *parts: object
) -> Iterator[tuple[tuple[str, str, str], int]]:
    """Two distinct pictures of one group and one of another, and where that one is, `count` times.

    Args:
        groups: Name -> the classes of a group -> their pictures, none of them empty. A group is drawn first,
            then a class of it, then a picture.
        count: How many; fewer where so many draws bring nothing new.

    Raises:
        ValueError: There are fewer than two groups, or fewer than two pictures in one.
    """
    names = sorted(groups)
    if len(names) < 2 or any(sum(map(len, groups[name])) < 2 for name in names):
        raise ValueError("odd one out needs two groups with two pictures each, at least")

    def pick(group: str, turn: int, slot: str) -> str:
        classes = groups[group]
        pictures = classes[below(len(classes), "class", slot, turn, *parts)]
        return pictures[below(len(pictures), "picture", slot, turn, *parts)]

    seen: set[tuple[str, ...]] = set()
    turn = found = repeats = 0
    while found < count and repeats < 10_000:
        first = below(len(names), "group", turn, *parts)
        other = below(len(names) - 1, "odd group", turn, *parts)
        other += other >= first
        same = [pick(names[first], turn, "one"), pick(names[first], turn, "two")]
        odd = pick(names[other], turn, "odd")
        label = below(3, "place", turn, *parts)
        turn += 1
        kind = (*sorted(same), odd)
        if same[0] == same[1] or kind in seen:
            repeats += 1
            continue
        seen.add(kind)
        found, repeats = found + 1, 0
        same.insert(label, odd)
        yield (same[0], same[1], same[2]), label
