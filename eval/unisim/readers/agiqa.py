"""AGIQA-3K: generated pictures, rated for quality and for how well they fit their prompt (arXiv 2306.04717).

Two pictures of one prompt are compared. For the fit, the published code leaves out pictures that are rated
below 1: it calls that the quality, and tests the fit; so does this.
"""

from __future__ import annotations

from itertools import combinations

from eval.unisim.draw import evenly, placed
from eval.unisim.reading import Ask, Drawn, finite, read_table, readable
from eval.unisim.samples import Sample, Task

_LEAST_FIT = 1.0


def agiqa_fit(ask: Ask) -> Drawn:
    """Which of two pictures fits the prompt better."""
    return _pairs(ask, "mos_align", _LEAST_FIT)


def agiqa_quality(ask: Ask) -> Drawn:
    """Which of two pictures of a prompt has the higher quality."""
    return _pairs(ask, "mos_quality", None)


def _pairs(ask: Ask, column: str, least: float | None) -> Drawn:
    drawn = Drawn()
    candidates: dict[str, list[tuple[str, str, str]]] = {}
    for prompt, ratings in _prompts(ask, drawn, column, least).items():
        candidates[prompt] = []
        for first, other in combinations(sorted(ratings), 2):
            if ratings[first] == ratings[other]:
                drawn.leave(f"{first} and {other}", f"a tie: {column} is {ratings[first]:g} for both")
                continue
            good, bad = (first, other) if ratings[first] > ratings[other] else (other, first)
            candidates[prompt].append((prompt, good, bad))
    task: Task = "iqa" if ask.key == "iqa/agiqa" else "it_2afc"
    for prompt, good, bad in evenly(candidates, ask.count, str, ask.seed, "agiqa", column):
        identity = "/".join(sorted((good, bad)))
        names, label = placed(good, bad, ask.seed, "agiqa", column, identity)
        images = tuple(f"agiqa-3k/images/{name}" for name in names)
        drawn.samples.append(Sample(identity, task, images, () if task == "iqa" else (prompt,), label))
    drawn.notes.append(
        "Pairs are drawn from the seed and their names, as many of each prompt as of the others, each "
        "once; the published code draws anew at each look, in an order that depends on its workers."
    )
    return drawn


def _prompts(ask: Ask, drawn: Drawn, column: str, least: float | None) -> dict[str, dict[str, float]]:
    """Prompt -> name of a picture -> its rating."""
    prompts: dict[str, dict[str, float]] = {}
    named: dict[str, str] = {}
    below = 0
    for where, row in read_table(ask.file("agiqa-3k/data.csv"), ("name", "prompt", column)):
        rating = finite(row[column]) if row else None
        if row is None or rating is None or not readable(row["prompt"]):
            drawn.leave(
                where, f"has no prompt, no number as {column}, or not as many cells as the first line"
            )
            continue
        problem = ask.files.problem([f"agiqa-3k/images/{row['name']}"])
        if least is not None and rating < least:
            below += 1
        elif problem or row["name"] in named:
            drawn.leave(where, problem or f"repeats {row['name']} of {named[row['name']]}")
        else:
            named[row["name"]] = where
            prompts.setdefault(row["prompt"], {})[row["name"]] = rating
    if least is not None:
        drawn.notes.append(f"{below} pictures with {column} below {least:g} are not asked, as published.")
    return prompts
