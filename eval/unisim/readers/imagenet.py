"""ImageNet: two pictures of one of six groups of classes, and one of another (Russakovsky et al., IJCV 2015).

The groups are the published benchmark's. A class is the place of its folder among the 1000 sorted folders of
val.
"""

from __future__ import annotations

from eval.unisim.draw import triplets
from eval.unisim.reading import Ask, Drawn
from eval.unisim.samples import Sample

#: Group -> its classes.
_GROUPS: dict[str, tuple[int, ...]] = {
    "aquatic animals": (*range(7), 33, 34, *range(147, 151), *range(390, 398)),
    "terrestrial animals": (
        *range(7, 25), *range(30, 33), *range(38, 44), *range(45, 49), *range(51, 58), *range(59, 65),
        *range(66, 69), *range(70, 101), 102, *range(104, 107), *range(127, 144), *range(269, 327), 344,
        *range(348, 389),
    ),
    "clothes": (
        399, 400, 411, 434, 443, 474, 501, 529, 568, 578, 608, 614, 617, 638, 655, 697, 775, 808, 824, 834,
    ),
    "transportations": (
        403, 404, 405, 407, 408, 436, 450, 472, 476, 511, 547, 555, 565, 573, 576, 595, 612, 627, 654, 656,
        665, 671, 717, 779, 780, 802, 814, 817, 829, 833, 866, 870, 874, 880,
    ),
    "places": (415, 424, 425, 467, 483, 497, 500, 580, 624, 663, 668, 698, 978),
    "musical instruments": (
        401, 402, 420, 432, 486, 513, 541, 542, 546, 558, 577, 579, 593, 594, 641, 642, 683, 684, 776, 875,
        889,
    ),
}  # fmt: skip
_CLASSES, _PICTURES = 1000, 50
_FIRST, _LAST = "n01440764", "n15075141"


def imagenet(ask: Ask) -> Drawn:
    """Which of three pictures is of another group."""
    drawn = Drawn()
    base = f"imagenet/{ask.split}"
    folders = [name for name in ask.folder(base) if name.startswith("n")]
    if len(folders) != _CLASSES or (folders[0], folders[-1]) != (_FIRST, _LAST):
        raise ask.missing(
            ask.root / base,
            f"{len(folders)} folders, {folders[0] if folders else 'none'} to "
            f"{folders[-1] if folders else 'none'}, where {_CLASSES} are needed, {_FIRST} to {_LAST}, for a "
            "class is known by its place among them",
        )
    groups = {
        group: [_pictures(ask, drawn, f"{base}/{folders[index]}") for index in classes]
        for group, classes in _GROUPS.items()
    }
    groups = {group: [pictures for pictures in classes if pictures] for group, classes in groups.items()}
    count = ask.count if ask.count is not None else ask.dataset.count
    assert count is not None
    for turn, (images, label) in enumerate(triplets(groups, count, ask.seed, "imagenet")):
        drawn.samples.append(Sample(f"{turn:05d}", "ooo", images, label=label))
    drawn.notes.append(
        "A group, a class of it and a picture of the class are drawn from the seed; the three pictures "
        "differ, and no triplet comes twice. The published code draws anew at each look, may show a "
        "picture twice, and draws some land animals two or three times as often, since its list repeats "
        "them."
    )
    return drawn


def _pictures(ask: Ask, drawn: Drawn, folder: str) -> list[str]:
    names = [name for name in ask.names(folder) if name.lower().endswith((".jpeg", ".jpg", ".png"))]
    if len(names) != _PICTURES:
        drawn.leave(
            folder, f"{len(names)} pictures; the published val has {_PICTURES}, and other draws follow"
        )
    return [f"{folder}/{name}" for name in names]
