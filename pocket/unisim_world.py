"""What is asked about pocket pictures: scenes of a split, and how a question of each kind is made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

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
)
from pocket.pool import is_reserved
from pocket.unipercept.degrade import degrade

#: Degradations of the data sets that are trained on, and those that are only in `unseen` ones.
SEEN = ("blur", "noise", "downscale", "smear")
#: What a picture that is spoilt so is called.
CALLED = {"blur": "blurred", "noise": "noisy", "downscale": "coarse", "smear": "smeared"}
#: What pictures of high and of low quality are called, as published.
VERDICTS = ("A high-quality photo.", "A low-quality photo.")
UNSEEN = ("jpeg", "posterise", "dither", "grid")
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

    def murky(self, pictures: Sequence[Pixels]) -> tuple[Pixels, ...]:
        kind, severity = str(self.rng.choice(SEEN)), self.rng.uniform(0.6, 1.0)
        return tuple(self.spoil(pixels, kind, severity) for pixels in pictures)

    def two_severities(self) -> tuple[float, float]:
        mild = self.rng.uniform(0.1, 0.6)
        return mild, mild + self.rng.uniform(0.05, 0.2)


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


def through(world: World) -> Asked:
    """A picture, the same scene badly spoilt and a changed one as it is: the same scene is closer."""
    scene, changed = world.scenes(world.change())
    return Asked((world.paint(scene), *world.murky([world.paint(scene)]), world.paint(changed)))


def alike(world: World) -> Asked:
    """A spoilt picture, and the same scene painted again, spoilt as much and less: as much is closer."""
    (scene,), kind = world.scenes(), str(world.rng.choice(SEEN))
    high = world.rng.uniform(0.7, 1.0)
    severities = high, high, high - world.rng.uniform(0.4, 0.7)
    return Asked(tuple(world.spoil(world.paint(scene), kind, severity) for severity in severities))


def edit(world: World) -> Asked:
    """A picture, it with one change and it with another on top: one change is closer."""
    changes = world.rng.permutation(["subject", "background", "layout"])[:2]
    return Asked(tuple(world.paint(scene) for scene in world.scenes(*changes)))


def redraw(world: World) -> Asked:
    """A picture, the same scene painted again and in another place or size: the same scene is closer."""
    scene, changed = world.scenes("layout")
    return Asked((world.paint(scene), world.paint(scene), world.paint(changed)))


def depicts(what: str, murky: bool = False) -> Callable[[World], Asked]:
    """A caption, its picture and one of a changed scene; murky: both badly spoilt in the same way."""

    def ask(world: World) -> Asked:
        scene, changed = world.scenes(what)
        pictures = world.paint(scene), world.paint(changed)
        return Asked(world.murky(pictures) if murky else pictures, (world.caption(scene),))

    return ask


def whole(world: World) -> Asked:
    """A caption, its picture hardly and much malformed."""
    (scene,), kind = world.scenes(), str(world.rng.choice(MALFORMING))
    clean = world.paint(scene)
    little, much = world.rng.uniform(0, 0.2), world.rng.uniform(0.5, 0.9)
    return Asked((world.spoil(clean, kind, little), world.spoil(clean, kind, much)), (world.caption(scene),))


def unspoilt(world: World) -> Asked:
    """A caption, its picture as it is and badly spoilt."""
    (scene,), kind = world.scenes(), str(world.rng.choice(SEEN))
    clean = world.paint(scene)
    return Asked((clean, world.spoil(clean, kind, world.rng.uniform(0.5, 1.0))), (world.caption(scene),))


def says_treatment(world: World) -> Asked:
    """A spoilt picture, the right word for what happened to it and a wrong one."""
    scene, kinds = world.scenes()[0], [str(kind) for kind in world.rng.choice(SEEN, 2, replace=False)]
    picture = world.spoil(world.paint(scene), kinds[0], world.rng.uniform(0.5, 1.0))
    return Asked((picture,), tuple(f"a {CALLED[kind]} picture" for kind in kinds))


def says_quality(world: World) -> Asked:
    """A picture as it is or badly spoilt, and two verdicts on its quality."""
    clean = world.paint(*world.scenes())
    if world.rng.random() < 0.5:
        return Asked((clean,), VERDICTS)
    return Asked(world.murky([clean]), VERDICTS[::-1])


def describes(what: str, murky: bool = False) -> Callable[[World], Asked]:
    """A picture, its caption and one of a changed scene; murky: the picture is badly spoilt."""

    def ask(world: World) -> Asked:
        scene, changed = world.scenes(what)
        pictures = (world.paint(scene),)
        texts = world.caption(scene), world.caption(changed)
        return Asked(world.murky(pictures) if murky else pictures, texts)

    return ask


def ladder(kinds: Sequence[str]) -> Callable[[World], Asked]:
    """A picture spoilt hardly and badly by the same degradation."""

    def ask(world: World) -> Asked:
        clean, kind = world.paint(*world.scenes()), str(world.rng.choice(kinds))
        hardly, badly = world.rng.uniform(0, 0.25), world.rng.uniform(0.6, 1.0)
        return Asked((world.spoil(clean, kind, hardly), world.spoil(clean, kind, badly)))

    return ask


def intact(world: World) -> Asked:
    """A picture as it is, and spoilt."""
    clean = world.paint(*world.scenes())
    return Asked((clean, world.spoil(clean, str(world.rng.choice(SEEN)), world.rng.uniform(0.4, 1.0))))


def mixed(world: World) -> Asked:
    """A picture spoilt hardly by one degradation and badly by another."""
    clean, kinds = world.paint(*world.scenes()), world.rng.choice(SEEN, 2, replace=False)
    severities = world.rng.uniform(0, 0.2), world.rng.uniform(0.6, 1.0)
    hardly, badly = (world.spoil(clean, str(k), s) for k, s in zip(kinds, severities, strict=True))
    return Asked((hardly, badly))


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
