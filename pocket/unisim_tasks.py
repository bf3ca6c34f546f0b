"""Questions of UniSim's tasks about pocket pictures: the small world in which its training is seen whole.

    python -m pocket.unisim_tasks --out pocket/cache/unisim --train 1500 --test 400

Each core task (`img_2afc`, `it_2afc`, `text_2afc`, `iqa`) has three data sets to train on and to be measured
on; data sets of unseen degradations, and tasks that are never trained (`paa`, `ooo`, `nafc`), are for
measuring alone. Answers follow from how pictures are made. Training and test share no picture and no caption:
test scenes are the reserved ones, which the pocket CLIP has not seen either.

Files: `pictures/<split>/*.png`, and `<split>/<task>-<set>.jsonl` in the format of `eval.unisim.manifest`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from pocket.data import (
    COLOURS,
    GRADIENTS,
    PLACES,
    SIZES,
    Scene,
    Subject,
    background_names,
    caption,
    compose,
    draw_scene,
    load_subjects,
)
from pocket.pool import is_reserved
from pocket.unipercept.degrade import degrade

#: Degradations of the data sets that are trained on, and those that are only in `unseen` ones.
SEEN = ("blur", "noise", "jpeg", "downscale", "posterise", "ringing", "smear", "warp", "missing")
UNSEEN = ("dither", "grid", "wash_out", "blotch")
MALFORMING = ("warp", "missing", "shatter")
Pixels = np.ndarray


@dataclass(frozen=True)
class Asked:
    """A question before its choices are put in a random order.

    Attributes:
        images, texts: As `eval.unisim.samples` has them, the right choice first; in `ooo` the odd one last.
        attribute: Of `paa`.
    """

    images: tuple[Pixels, ...]
    texts: tuple[str, ...] = ()
    attribute: str | None = None


class World:
    """Scenes of one split and their pictures.

    Args:
        subjects: What there is to paint.
        reserved: Whether its scenes are the reserved ones.
        seed: Of everything drawn.
    """

    def __init__(self, subjects: Sequence[Subject], reserved: bool, seed: int) -> None:
        self.subjects, self.reserved = subjects, reserved
        self.rng = np.random.default_rng(seed)

    def caption(self, scene: Scene) -> str:
        return caption(self.subjects[scene.subject].noun, scene)

    def paint(self, scene: Scene) -> Pixels:
        return np.asarray(compose(self.subjects[scene.subject], scene, self.rng))

    def spoil(self, pixels: Pixels, kind: str, severity: float) -> Pixels:
        return degrade(pixels, {kind: severity}, self.rng)

    def scenes(self, *changes: str) -> tuple[Scene, ...]:
        """A scene of this split, and scenes of it that come from each other by one change after another."""
        while True:
            made = [draw_scene(self.rng, len(self.subjects))]
            if not self._is_here(made[0]):
                continue
            for what in changes:
                others = [scene for scene in self._others(made[-1], what) if self._is_here(scene)]
                if not others:
                    break
                made.append(others[self.rng.integers(len(others))])
            if len(made) == 1 + len(changes):
                return tuple(made)

    def _is_here(self, scene: Scene) -> bool:
        return is_reserved(self.caption(scene)) == self.reserved

    def _others(self, scene: Scene, what: str) -> Iterator[Scene]:
        """Everything that a scene can become by one change."""
        if what == "subject":
            category = self.subjects[scene.subject].category
            for index, subject in enumerate(self.subjects):
                if index != scene.subject and subject.category == category:
                    yield replace(scene, subject=index)
        elif what == "background":
            kinds = _kinds()
            for name in kinds:
                if name != scene.background and kinds[name] == kinds[scene.background]:
                    yield replace(scene, background=name)
        else:
            for place in PLACES:
                for size in list(SIZES)[: 2 if place else 3]:
                    if (place, size) != (scene.place, scene.size):
                        yield replace(scene, place=place, size=size)

    def change(self) -> str:
        return str(self.rng.choice(["subject", "background", "layout"]))

    def two_severities(self) -> tuple[float, float]:
        mild = self.rng.uniform(0.1, 0.5)
        return mild, mild + self.rng.uniform(0.15, 0.4)


@functools.cache
def _kinds() -> dict[str, int]:
    """Background -> plain, gradient or scene."""
    ends = np.cumsum([len(COLOURS), len(GRADIENTS)])
    return {name: int(np.searchsorted(ends, i, "right")) for i, name in enumerate(background_names())}


def same_kind(kinds: Sequence[str]) -> Callable[[World], Asked]:
    """A picture, and it spoilt mildly and more by the same degradation: the mild one is closer."""

    def ask(world: World) -> Asked:
        clean, kind = world.paint(*world.scenes()), str(world.rng.choice(kinds))
        mild, strong = world.two_severities()
        return Asked((clean, world.spoil(clean, kind, mild), world.spoil(clean, kind, strong)))

    return ask


def edit(world: World) -> Asked:
    """A picture, it with one change and it with another on top: one change is closer."""
    changes = world.rng.permutation(["subject", "background", "layout"])[:2]
    return Asked(tuple(world.paint(scene) for scene in world.scenes(*changes)))


def redraw(world: World) -> Asked:
    """A picture, the same scene painted again and a changed one: the same scene is closer."""
    scene, changed = world.scenes(world.change())
    return Asked((world.paint(scene), world.paint(scene), world.paint(changed)))


def depicts(what: str) -> Callable[[World], Asked]:
    """A caption, its picture and one of a changed scene."""

    def ask(world: World) -> Asked:
        scene, changed = world.scenes(what)
        return Asked((world.paint(scene), world.paint(changed)), (world.caption(scene),))

    return ask


def whole(world: World) -> Asked:
    """A caption, its picture hardly and much malformed."""
    (scene,), kind = world.scenes(), str(world.rng.choice(MALFORMING))
    clean = world.paint(scene)
    little, much = world.rng.uniform(0, 0.2), world.rng.uniform(0.5, 0.9)
    return Asked((world.spoil(clean, kind, little), world.spoil(clean, kind, much)), (world.caption(scene),))


def describes(what: str) -> Callable[[World], Asked]:
    """A picture, its caption and one of a changed scene."""

    def ask(world: World) -> Asked:
        scene, changed = world.scenes(what)
        return Asked((world.paint(scene),), (world.caption(scene), world.caption(changed)))

    return ask


def ladder(kinds: Sequence[str]) -> Callable[[World], Asked]:
    """A picture spoilt mildly and more by the same degradation."""

    def ask(world: World) -> Asked:
        clean, kind = world.paint(*world.scenes()), str(world.rng.choice(kinds))
        mild, strong = world.two_severities()
        return Asked((world.spoil(clean, kind, mild), world.spoil(clean, kind, strong)))

    return ask


def intact(world: World) -> Asked:
    """A picture as it is, and another scene, spoilt."""
    clean, other = world.paint(*world.scenes()), world.paint(*world.scenes())
    return Asked((clean, world.spoil(other, str(world.rng.choice(SEEN)), world.rng.uniform(0.3, 0.8))))


def mixed(world: World) -> Asked:
    """Two scenes, spoilt mildly by one degradation and strongly by another."""
    pictures = [world.paint(*world.scenes()) for _ in range(2)]
    severities = world.rng.uniform(0.05, 0.25), world.rng.uniform(0.55, 0.9)
    kinds = [str(kind) for kind in world.rng.choice(SEEN, 2)]
    return Asked(tuple(map(world.spoil, pictures, kinds, severities)))


def attribute(name: str) -> Callable[[World], Asked]:
    """The same picture with more and with less of an attribute."""

    def ask(world: World) -> Asked:
        image = Image.fromarray(world.paint(*world.scenes()))
        gap = world.rng.uniform(0.25, 0.6)
        if name == "sharpness":
            less = image.filter(ImageFilter.GaussianBlur(0.6 + 2 * gap))
            return Asked((np.asarray(image), np.asarray(less)), attribute=name)
        enhance = {
            "brightness": ImageEnhance.Brightness,
            "colorfulness": ImageEnhance.Color,
            "contrast": ImageEnhance.Contrast,
        }
        pair = [np.asarray(enhance[name](image).enhance(factor)) for factor in (1 + gap / 2, 1 - gap / 2)]
        return Asked(tuple(pair), attribute=name)

    return ask


def odd(world: World) -> Asked:
    """Two scenes of one thing and one of another, all on different backgrounds and in different places."""
    first, _, second = world.scenes("background", "layout")
    while True:
        (third,) = world.scenes()
        if world.subjects[third.subject].category != world.subjects[first.subject].category:
            return Asked((world.paint(first), world.paint(second), world.paint(third)))


def among(world: World) -> Asked:
    """A caption and four pictures, of it and of three changed scenes."""
    scene, one = world.scenes(world.change())
    return Asked(
        (world.paint(scene), world.paint(one), world.paint(*world.scenes()), world.paint(*world.scenes())),
        (world.caption(scene),),
    )


@dataclass(frozen=True)
class Set:
    """A data set: its task, how a question of it is made, and whether there is one to train on."""

    task: str
    ask: Callable[[World], Asked]
    trained: bool = True


#: The order within a task is that in which the table adds data sets to the training.
SETS: Mapping[str, Set] = {
    "severity": Set("img_2afc", same_kind(SEEN)),
    "edit": Set("img_2afc", edit),
    "redraw": Set("img_2afc", redraw),
    "subject": Set("it_2afc", depicts("subject")),
    "scene": Set("it_2afc", depicts("layout")),
    "whole": Set("it_2afc", whole),
    "noun": Set("text_2afc", describes("subject")),
    "place": Set("text_2afc", describes("layout")),
    "background": Set("text_2afc", describes("background")),
    "ladder": Set("iqa", ladder(SEEN)),
    "intact": Set("iqa", intact),
    "mixed": Set("iqa", mixed),
    "unseen_severity": Set("img_2afc", same_kind(UNSEEN), trained=False),
    "setting": Set("it_2afc", depicts("background"), trained=False),
    "unseen_ladder": Set("iqa", ladder(UNSEEN), trained=False),
    "brightness": Set("paa", attribute("brightness"), trained=False),
    "colorfulness": Set("paa", attribute("colorfulness"), trained=False),
    "contrast": Set("paa", attribute("contrast"), trained=False),
    "sharpness": Set("paa", attribute("sharpness"), trained=False),
    "odd": Set("ooo", odd, trained=False),
    "among": Set("nafc", among, trained=False),
}


def manifest_name(name: str) -> str:
    """File name of a data set's manifest."""
    return f"{SETS[name].task}-{name}.jsonl"


def write(out: Path, counts: Mapping[str, int], subjects: Sequence[Subject], seed: int = 0) -> None:
    """Write pictures and manifests; a manifest that is there already, of the same seed and size, stays.

    Args:
        out: Folder; created.
        counts: Split (train, test) -> questions of each data set.
        subjects: What there is to paint.
        seed: The same one makes the same files.
    """
    for split, count in counts.items():
        for name, kind in SETS.items():
            file = out / split / manifest_name(name)
            if (split == "train" and not kind.trained) or _is_made(file, seed, count):
                continue
            world = World(subjects, split == "test", zlib.crc32(f"{seed} {split} {name}".encode()))
            lines = [_line(world, kind, number, out, split) for number in range(count)]
            header = {
                "format": "unisim-bench manifest", "version": 1, "dataset": name, "task": kind.task,
                "split": split, "seed": seed, "samples": count, "left_out_count": 0, "left_out": [],
                "notes": ["Answers follow from how the pocket pictures were made."],
            }  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".tmp")
            partial.write_text("".join(json.dumps(row) + "\n" for row in [header, *lines]), encoding="utf-8")
            partial.replace(file)


def _is_made(file: Path, seed: int, count: int) -> bool:
    if not file.exists():
        return False
    with file.open(encoding="utf-8") as stream:
        header = json.loads(stream.readline())
    return bool(header["seed"] == seed and header["samples"] == count)


def _line(world: World, kind: Set, number: int, out: Path, split: str) -> dict[str, Any]:
    """One question, its choices in a random order."""
    asked = kind.ask(world)
    images, texts = list(asked.images), list(asked.texts)
    choices, fixed = (texts, 0) if kind.task == "text_2afc" else (images, int(kind.task == "img_2afc"))
    order = [int(i) for i in world.rng.permutation(len(choices) - fixed)]
    choices[fixed:] = [choices[fixed:][i] for i in order]
    label = order.index(2 if kind.task == "ooo" else 0)
    files = [_save(image, out, split) for image in images]
    line: dict[str, Any] = {"id": str(number), "images": [name for name, _ in files]}
    line["sha256"] = [digest for _, digest in files]
    return (
        line
        | ({"texts": texts} if texts else {})
        | {"label": label}
        | ({"attribute": asked.attribute} if asked.attribute else {})
    )


def _save(pixels: Pixels, out: Path, split: str) -> tuple[str, str]:
    """Write a picture under a name that follows from its content; its name and hash."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    name = f"pictures/{split}/{digest[:2]}/{digest[2:18]}.png"
    file = out / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(buffer.getvalue())
    return name, digest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("pocket/cache/unisim"))
    parser.add_argument("--train", type=int, default=1500, help="questions of each data set to train on")
    parser.add_argument("--test", type=int, default=400, help="questions of each data set to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder of downloaded pictures")
    args = parser.parse_args()
    write(args.out, {"train": args.train, "test": args.test}, load_subjects(args.cache), args.seed)


if __name__ == "__main__":
    main()
