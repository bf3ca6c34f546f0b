"""ROxford5K and RParis6K: find pictures of a landmark (arXiv 1803.11285).

`gnd_*.pkl` lists the gallery, the queries, and for each query which pictures of the gallery show it well
(easy), badly (hard), or too little to count (junk).
"""

from __future__ import annotations

from typing import Any

from eval.unisim.draw import chosen
from eval.unisim.plain_pickle import read_plain_pickle
from eval.unisim.reading import Ask, Drawn
from eval.unisim.samples import Sample

_KINDS = ("easy", "hard", "junk")


def roxford(ask: Ask) -> Drawn:
    """The queries of ROxford5K."""
    return _read(ask, "roxford5k")


def rparis(ask: Ask) -> Drawn:
    """The queries of RParis6K."""
    return _read(ask, "rparis6k")


def _read(ask: Ask, folder: str) -> Drawn:
    drawn = Drawn()
    base = f"retrieval/revisitop/{folder}"
    path = ask.file(f"{base}/gnd_{folder}.pkl")
    truth = read_plain_pickle(path)
    gallery, queries, answers = (_list(truth, key) for key in ("imlist", "qimlist", "gnd"))
    if not gallery or not queries or len(queries) != len(answers):
        raise ValueError(
            f"{path}: imlist, qimlist and gnd are lists of {len(gallery)}, {len(queries)} and "
            f"{len(answers)}; they must not be empty, and the last two are of the same queries"
        )
    kept: dict[int, int] = {}
    names: dict[str, None] = {}
    for index, stem in enumerate(gallery):
        name = f"{base}/jpg/{stem}.jpg"
        problem = ask.files.problem([name]) or (f"repeats {name}" if name in names else None)
        if problem:
            drawn.leave(f"imlist, {index}", problem)
        else:
            kept[index] = len(names)
            names[name] = None
    drawn.gallery = tuple(names)
    for index, (stem, answer) in enumerate(zip(queries, answers, strict=True)):
        _query(ask, drawn, f"{base}/jpg/{stem}.jpg", str(stem), answer, kept, len(gallery), index)
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, folder)
    drawn.notes.append("Queries are not cut to their box (bbx), as published.")
    if len(names) < len(gallery):
        drawn.notes.append(
            f"{len(gallery) - len(names)} of {len(gallery)} pictures of the gallery are not there: its "
            "figures are not comparable with published ones."
        )
    return drawn


def _query(
    ask: Ask, drawn: Drawn, name: str, stem: str, answer: object, kept: dict[int, int], size: int, index: int
) -> None:
    where = f"qimlist, {index}"
    found = {kind: _indices(answer, kind) for kind in _KINDS}
    lists = [indices for indices in found.values() if indices is not None]
    flat = [entry for indices in lists for entry in indices]
    problem = ask.files.problem([name])
    if problem:
        drawn.leave(where, problem)
    elif len(lists) < len(_KINDS):
        drawn.leave(where, "lacks easy, hard or junk as a list of whole numbers")
    elif any(not 0 <= entry < size for entry in flat) or len(set(flat)) < len(flat):
        drawn.leave(
            where, f"easy, hard and junk must name each of the {size} pictures of the gallery once at most"
        )
    elif any(sample.id == stem for sample in drawn.samples):
        drawn.leave(where, f"repeats the query {stem}")
    else:
        easy, hard, junk = (tuple(kept[entry] for entry in indices if entry in kept) for indices in lists)
        drawn.samples.append(Sample(stem, "ir", (name,), easy=easy, hard=hard, junk=junk))


def _list(truth: object, key: str) -> list[Any]:
    return _values(truth, key) or []


def _indices(answer: object, kind: str) -> list[int] | None:
    """The whole numbers of a list or an array, sorted; None if it is none."""
    values = _values(answer, kind)
    if values is None or not all(
        isinstance(value, int | float) and float(value).is_integer() for value in values
    ):
        return None
    return sorted(map(int, values))


def _values(container: object, key: str) -> list[Any] | None:
    """The list or array that a dict has; None if it has none."""
    found: Any = container.get(key) if isinstance(container, dict) else None
    values = found.tolist() if hasattr(found, "tolist") else found
    return list(values) if isinstance(values, list | tuple) else None
