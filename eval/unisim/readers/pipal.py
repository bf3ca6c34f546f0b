"""PIPAL: distorted and restored pictures with Elo ratings (arXiv 2007.12142).

The good pictures are the reference and the first four in the list that are rated 1500 or more; each is asked
against every picture of the same scene that is rated lower, as published.
"""

from __future__ import annotations

from collections.abc import Iterator

from eval.unisim.draw import chosen, placed
from eval.unisim.reading import Ask, Drawn, finite
from eval.unisim.samples import Sample

_GOOD, _RATING = 5, 1500.0
_FOLDERS = {"val": ("Val_Ref", "Val_Dist"), "train": ("Train_Ref", "Dist_Imgs")}


def pipal(ask: Ask) -> Drawn:
    """Which of two pictures of a scene is better."""
    drawn = Drawn()
    references, distorted = (f"PIPAL/{folder}" for folder in _FOLDERS[ask.split])
    scenes: dict[str, list[tuple[float, str]]] = {}
    seen: dict[str, str] = {}
    for where, name, rating in _ratings(ask, drawn):
        if name in seen:
            drawn.leave(where, f"repeats {name} of {seen[name]}")
            continue
        seen[name] = where
        scenes.setdefault(name.split("_")[0], []).append((rating, f"{distorted}/{name}"))
    for scene, rated in sorted(scenes.items()):
        good = [f"{references}/{scene}.bmp", *(name for rating, name in rated if rating >= _RATING)][:_GOOD]
        bad = [name for rating, name in rated if rating < _RATING]
        there = {name for name in (*good, *bad) if not _missing(ask, drawn, name)}
        for better in good:
            for worse in bad:
                if {better, worse} <= there:
                    drawn.samples.append(_sample(ask, better, worse))
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "pipal")
    drawn.notes.append(
        "Which picture comes first is drawn from the seed and the names; in the published code, from the "
        "state of a worker."
    )
    return drawn


def _missing(ask: Ask, drawn: Drawn, name: str) -> bool:
    problem = ask.files.problem([name])
    if problem:
        drawn.leave(name, problem)
    return problem is not None


def _sample(ask: Ask, better: str, worse: str) -> Sample:
    identity = "/".join(name.rpartition("/")[2].removesuffix(".bmp") for name in (better, worse))
    images, label = placed(better, worse, ask.seed, "pipal", identity)
    return Sample(identity, "iqa", images, label=label)


def _ratings(ask: Ask, drawn: Drawn) -> Iterator[tuple[str, str, float]]:
    """Where each rating stands, the picture's name, and the rating."""
    if ask.split == "val":
        tables = ["PIPAL/val_label.txt"]
    else:
        tables = [
            f"PIPAL/Train_Label/{name}" for name in ask.folder("PIPAL/Train_Label") if name.endswith(".txt")
        ]
    for table in tables:
        lines = ask.file(table).read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(lines, start=1):
            name, _, rest = line.partition(",")
            rating = finite(rest.strip())
            where = f"{table}, line {number}"
            if line.strip() and (rating is None or "_" not in name):
                drawn.leave(where, f"{line.strip()!r}; a line is SCENE_..., RATING")
            elif rating is not None:
                yield where, name.strip(), rating
