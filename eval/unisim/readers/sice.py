"""SICE: scenes in several exposures (Cai et al., IEEE TIP 2018).

Pictures of a scene are compared by the mean of their grey values, cut to a whole number, as published. A
tenth of the scenes is the test split.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

from eval.unisim.draw import chosen, number, placed
from eval.unisim.reading import Ask, Drawn
from eval.unisim.samples import Sample

_PARTS = ("Dataset_Part1", "Dataset_Part2")
_TEST = 0.1
_THREADS = 4


def sice(ask: Ask) -> Drawn:
    """Which of two exposures is brighter. Every pair of a scene once."""
    from tqdm import tqdm

    drawn = Drawn()
    scenes = _scenes(ask)
    names = [name for pictures in scenes.values() for name in pictures]

    def look(name: str) -> int | str:
        return _brightness(ask, name)

    with ThreadPoolExecutor(_THREADS) as pool:
        bar = tqdm(pool.map(look, names), total=len(names), desc="brightness", unit="file")
        grey = dict(zip(names, bar, strict=True))
    for scene, pictures in scenes.items():
        _pairs(ask, drawn, scene, {name: grey[name] for name in pictures})
    drawn.samples = chosen(drawn.samples, ask.count, lambda sample: sample.id, ask.seed, "sice")
    drawn.notes.append(
        "A tenth of the scenes is the test split, drawn from their names, whatever the seed; the published "
        "code takes the first tenth in the order in which the disk lists them, Label among them, and "
        "shrinks pictures to a fifth first. Which picture comes first is drawn from the seed and the names."
    )
    return drawn


def _scenes(ask: Ask) -> dict[str, list[str]]:
    """Scene -> its pictures, of the split, in the order of numbers."""
    found: list[str] = []
    for part in _PARTS:
        entries = [name for name in ask.folder(f"sice/{part}") if name != "Label"]
        found += [f"{part}/{name}" for name in entries if (ask.root / "sice" / part / name).is_dir()]
    drawn = sorted(found, key=lambda scene: number("sice split", scene))
    test = set(drawn[: max(int(_TEST * len(drawn)), 1)])
    scenes = sorted((scene for scene in found if (scene in test) == (ask.split == "test")), key=_order)
    return {
        scene: sorted((f"sice/{scene}/{name}" for name in ask.names(f"sice/{scene}")), key=_order)
        for scene in scenes
    }


def _pairs(ask: Ask, drawn: Drawn, scene: str, grey: dict[str, int | str]) -> None:
    for name, value in grey.items():
        if isinstance(value, str):
            drawn.leave(name, value)
    values = {name: value for name, value in grey.items() if isinstance(value, int)}
    for first, other in combinations(values, 2):
        identity = "/".join([scene, *(name.rpartition("/")[2] for name in (first, other))])
        if values[first] == values[other]:
            drawn.leave(identity, f"a tie: the mean grey value is {values[first]} for both")
            continue
        right, wrong = (first, other) if values[first] > values[other] else (other, first)
        images, label = placed(right, wrong, ask.seed, "sice", identity)
        drawn.samples.append(Sample(identity, "paa", images, label=label, attribute="brightness"))


def _brightness(ask: Ask, name: str) -> int | str:
    """Mean grey value, 0 to 255, cut to a whole number; text where the picture cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(ask.root / name) as image:
            return int(np.asarray(image.convert("L")).mean())
    except Exception as error:  # decoders raise what they like
        return f"not a picture, or damaged ({type(error).__name__}: {error})"


def _order(name: str) -> tuple[tuple[int, str], ...]:
    """By numbers where there are some, so that 10 comes after 9."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))
