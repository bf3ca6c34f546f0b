"""Agreement between tasks as a map: a square of coloured numbers, which a screen reader reads as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.pages import NO_VALUE
from eval.unisim.published import AGREEMENT
from eval.unisim.samples import TASKS

#: Opacity of the colour at tau 1 or -1; at more of it the numbers would be hard to read.
STRONGEST = 0.6
#: Models that an order needs to say anything: of two, tau is 1 or -1 whatever they are.
FEWEST = 3


@dataclass(frozen=True)
class Square:
    """One cell.

    Attributes:
        text: Tau with its sign, or a dash.
        tone: `agree`, `against`, or `none` where there is no tau, or it is 0.
        strength: Opacity of the colour, 0 to `STRONGEST`.
        note: How many models it is of.
    """

    text: str
    tone: str
    strength: float
    note: str


def maps(record: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[Square | None]]]]:
    """Title, tasks and rows of squares (None on the diagonal) of each map: of all models and of each group,
    as far as `FEWEST` of them have two tasks, then the published ones.
    """
    groups: dict[str | None, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for entry in record["tau"]:
        groups.setdefault(entry["group"], {})[entry["first"], entry["second"]] = entry
    for group, found in groups.items():
        enough = {pair: one for pair, one in found.items() if one["n"] >= FEWEST}
        if any(one["tau"] is not None for one in enough.values()):
            title = "All models" if group is None else f"Models of the group {group}"
            squares = {pair: _square(one["tau"], f"n {one['n']}") for pair, one in enough.items()}
            yield title, *_filled(squares)
    for published in AGREEMENT:
        squares = {pair: _square(tau, f"n {published.n}") for pair, tau in published.tau.items()}
        yield f"Published, {published.group} models", *_filled(squares)


def _filled(squares: Mapping[tuple[str, str], Square]) -> tuple[list[str], list[list[Square | None]]]:
    tasks = [task for task in TASKS if any(task in pair for pair in squares)]
    nothing = Square(NO_VALUE, "none", 0.0, "")

    def at(first: str, second: str) -> Square | None:
        if first == second:
            return None
        return squares.get((first, second)) or squares.get((second, first)) or nothing

    return list(tasks), [[at(first, second) for second in tasks] for first in tasks]


def _square(tau: float | None, note: str) -> Square:
    if tau is None:
        return Square(NO_VALUE, "none", 0.0, note)
    text = f"{abs(tau):.2f}"
    if not float(text):
        return Square(text, "none", 0.0, note)
    sign, tone = ("+", "agree") if tau > 0 else ("−", "against")
    return Square(sign + text, tone, round(STRONGEST * min(abs(tau), 1.0), 3), note)


def in_words(names: Sequence[str], rows: Sequence[Sequence[Square | None]]) -> str:
    """The map in one sentence: which two tasks agree most, and which least."""
    found = [
        (float(square.text.replace("−", "-")), f"{names[i]} and {names[j]} ({square.text})")
        for i, row in enumerate(rows)
        for j, square in enumerate(row)
        if square is not None and i < j and square.text != NO_VALUE
    ]
    if not found:
        return "No two tasks can be compared."
    most, least = max(found, key=lambda one: one[0])[1], min(found, key=lambda one: one[0])[1]
    if len(found) == 1 or most == least:
        return f"Of {most}."
    return f"Most alike are {most}, least {least}."
