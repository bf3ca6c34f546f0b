"""Polaris: captions of models that people rated, with captions by people (arXiv 2402.18091).

A caption that is rated 0.5 or less is asked against each of the picture's references, unless it is one of
them.
"""

from __future__ import annotations

import ast

from eval.unisim.draw import chosen, placed
from eval.unisim.reading import Ask, Drawn, finite, read_table, readable
from eval.unisim.samples import Sample

_HIGHEST = 0.5


def polaris(ask: Ask) -> Drawn:
    """A reference against a candidate of low rating; the reference is the right one."""
    drawn = Drawn()
    candidates: dict[tuple[str, str, str], str] = {}
    liked = 0
    for where, row in read_table(ask.file(f"polaris/polaris_{ask.split}.csv"), ()):
        if row is None:
            drawn.leave(where, "has not as many cells as the first line")
            continue
        image, listed, candidate, rating = _cells(row)
        references, score = _references(listed), finite(rating)
        if references is None or score is None or not readable(candidate):
            drawn.leave(where, "has no list of references, no candidate, or no number as its rating")
        elif score > _HIGHEST:
            liked += 1
        elif _plain(candidate) in map(_plain, references):
            drawn.leave(where, "a tie: the candidate is one of the references")
        elif problem := ask.files.problem([f"polaris/images/{image}"]):
            drawn.leave(where, problem)
        else:
            _add(drawn, candidates, where, image, references, candidate)
    for (image, reference, candidate), identity in chosen(
        list(candidates.items()), ask.count, lambda entry: entry[1], ask.seed, "polaris"
    ):
        texts, label = placed(reference, candidate, ask.seed, "polaris", identity)
        drawn.samples.append(Sample(identity, "text_2afc", (f"polaris/images/{image}",), texts, label))
    drawn.notes.append(
        f"{liked} captions rated above {_HIGHEST} are not asked, as published. Which text comes first is "
        "drawn from the seed and the row; in the published code, from the state of a worker."
    )
    return drawn


def _add(
    drawn: Drawn,
    candidates: dict[tuple[str, str, str], str],
    where: str,
    image: str,
    references: list[str],
    candidate: str,
) -> None:
    """Ask the candidate against each reference, unless the same question is there already."""
    line = where.rpartition(" ")[2]
    for index, reference in enumerate(references):
        key = image, reference, candidate
        if not readable(reference):
            drawn.leave(where, f"reference {index} is no text")
        elif key in candidates:
            drawn.leave(where, f"reference {index} repeats question {candidates[key]}")
        else:
            candidates[key] = f"{line}/{index}"


def _cells(row: dict[str, str]) -> tuple[str, str, str, str]:
    """Picture, references, candidate and rating: by names, or by place as the published code has them."""
    if {"img", "refs", "cand", "human_score"} <= set(row):
        return row["img"], row["refs"], row["cand"], row["human_score"]
    cells = [*row.values(), *[""] * 3]
    return cells[0], cells[1], cells[2], list(row.values())[-1]


def _references(text: str) -> list[str] | None:
    """A list of texts in Python's notation; nothing in it is run."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    if not isinstance(found, list) or not found or not all(isinstance(entry, str) for entry in found):
        return None
    return found


def _plain(text: str) -> str:
    return text.lower().replace(".", "").replace("\n", "")
