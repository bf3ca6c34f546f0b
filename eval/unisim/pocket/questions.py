"""What is asked about the shipped pictures: a generator of questions for each data set.

Answers follow from how the pictures were made. The order of choices is drawn from the question's id
(`eval.unisim.draw`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path

from eval.unisim.draw import chosen, number, placed
from eval.unisim.pocket.pictures import MILD, Picture, World, describe
from eval.unisim.pocket.pictures import measured as pixels_say
from eval.unisim.samples import ATTRIBUTES, Attribute, Sample, Task
from pocket.data import PLACES, background_names
from pocket.unipercept.benchmark import SCENES

SEED = 0
#: Two copies of a picture are compared where one is spoilt by so much more, and loses so many times as much.
GAP, TIMES = 0.35, 1.5
#: Two different pictures are compared where one loses so much more quality, in nepers.
LOSS = 1.0
#: Two pictures differ in an attribute where its statistics stand so far from each other, as a quotient.
QUOTIENT = 1.25
#: Questions that are kept of a data set, and of each number of pictures in `nafc`.
KEPT, EACH = 96, 40


def ladders(world: World) -> Iterator[tuple[str, Picture, Picture]]:
    """A clean picture, a copy and one that is clearly worse."""
    for name, copies in world.copies.items():
        for mild, strong in combinations(copies, 2):
            if strong.severity - mild.severity >= GAP - 1e-9 and strong.loss >= TIMES * mild.loss:
                yield name, mild, strong


def _two(
    task: Task, key: str, right: str, wrong: str, before: str = "", texts: tuple[str, ...] = ()
) -> Sample:
    """A question between two pictures, in an order that is drawn."""
    pair, label = placed(right, wrong, SEED, task, key)
    return Sample(key, task, (*([before] if before else []), *pair), texts, label)


def _stem(picture: Picture) -> str:
    return Path(picture.file).stem


def severity_beside(world: World) -> Iterator[Sample]:
    """Which copy is closer to the clean picture: the mildly or the strongly spoilt one."""
    for name, mild, strong in ladders(world):
        key = f"{_stem(mild)}/{_stem(strong)}"
        yield _two("img_2afc", key, mild.file, strong.file, before=world.clean[name].file)


def content(world: World) -> Iterator[Sample]:
    """Which strongly spoilt picture is closer to the clean one: a copy of it, or one of something else."""
    for name in world.clean:
        for right, wrong in _as_spoilt(world, name, world.others(name)):
            key = f"{_stem(right)}/{_stem(wrong)}"
            yield _two("img_2afc", key, right.file, wrong.file, before=world.clean[name].file)


def _as_spoilt(world: World, name: str, others: Sequence[str]) -> Iterator[tuple[Picture, Picture]]:
    """A strongly spoilt copy of a picture, and one of something else that is spoilt as strongly."""
    for other in others:
        for right in world.copies[name]:
            for wrong in world.copies[other]:
                if right.severity == wrong.severity > MILD:
                    yield right, wrong


def depicted(names: Callable[[World], Sequence[str]]) -> Callable[[World], Iterator[Sample]]:
    """Which of two clean pictures a text describes."""

    def ask(world: World) -> Iterator[Sample]:
        for name in names(world):
            for other in world.others(name, names(world)):
                files = world.clean[name].file, world.clean[other].file
                yield _two("it_2afc", f"{name}/{other}", *files, texts=(describe(name),))

    return ask


def depicted_spoilt(world: World) -> Iterator[Sample]:
    """The same of two strongly spoilt copies."""
    for name in world.things:
        for right, wrong in _as_spoilt(world, name, world.others(name, world.things)):
            key = f"{_stem(right)}/{_stem(wrong)}"
            yield _two("it_2afc", key, right.file, wrong.file, texts=(describe(name),))


def described(what: str) -> Callable[[World], Iterator[Sample]]:
    """Which text describes a painted thing: its own, or one with another noun, place or background."""

    def ask(world: World) -> Iterator[Sample]:
        for name in world.things:
            size, place, background = SCENES[name.replace("_", " ")]
            changes = {
                "noun": world.others(name, world.things),
                "place": [] if size == "large " else [one for one in PLACES if one != place],
                "background": [one for one in background_names() if one != background],
            }[what]
            for picture in world.mild(name):
                for change in changes:
                    key = f"{_stem(picture)}/{change.strip()}"
                    texts, label = placed(
                        describe(name), describe(name, **{what: change}), SEED, "text_2afc", what, key
                    )
                    yield Sample(key, "text_2afc", (picture.file,), texts, label)

    return ask


def described_photograph(world: World) -> Iterator[Sample]:
    """Which text describes a crop of a photograph: its own, or that of another photograph."""
    for name in world.photographs:
        for other in world.others(name, world.photographs):
            key = f"{name}/{other}"
            texts, label = placed(describe(name), describe(other), SEED, "text_2afc", key)
            yield Sample(key, "text_2afc", (world.clean[name].file,), texts, label)


def severity(world: World) -> Iterator[Sample]:
    """Which copy of a picture is less spoilt."""
    for _, mild, strong in ladders(world):
        yield _two("iqa", f"{_stem(mild)}/{_stem(strong)}", mild.file, strong.file)


def scenes(world: World) -> Iterator[Sample]:
    """Which of two different pictures is less spoilt; the better one may be clean."""
    every = [one for name in world.clean for one in (world.clean[name], *world.copies[name])]
    for better, worse in permutations(every, 2):
        if better.source != worse.source and worse.loss - better.loss >= LOSS:
            yield _two("iqa", f"{_stem(better)}/{_stem(worse)}", better.file, worse.file)


def edited(world: World) -> Iterator[Sample]:
    """A clean picture and a copy that has more or less of an attribute, because that is what was done."""
    #: kind -> attributes, and whether the copy has more of them; exposure is told by its mean
    done: Mapping[str, Sequence[tuple[Attribute, bool]]] = {
        "blur": [("sharpness", False)],
        "downscale": [("sharpness", False)],
        "oversaturate": [("colorfulness", True), ("contrast", True)],
        "wash_out": [("contrast", False), ("colorfulness", False)],
    }
    for name, copies in world.copies.items():
        for copy in copies:
            effects = list(done.get(copy.kind, ()))
            if copy.kind == "expose":
                brighter = pixels_say(str(world.folder / copy.file), "brightness") > world.statistic(
                    name, "brightness"
                )
                effects = [("brightness", brighter)]
            for attribute, more in effects:
                key = f"{_stem(copy)}/{attribute}"
                files = (copy.file, world.clean[name].file)
                pair, label = placed(*(files if more else files[::-1]), SEED, "paa", key)
                yield Sample(key, "paa", pair, (), label, attribute)


def measured(world: World) -> Iterator[Sample]:
    """Two clean pictures that differ clearly in an attribute, as measured."""
    for attribute in ATTRIBUTES:
        asked = []
        for name in world.clean:
            for other in world.others(name):
                if world.statistic(name, attribute) >= QUOTIENT * world.statistic(other, attribute):
                    key = f"{name}/{other}/{attribute}"
                    files = world.clean[name].file, world.clean[other].file
                    pair, label = placed(*files, SEED, "paa", key)
                    asked.append(Sample(key, "paa", pair, (), label, attribute))
        yield from chosen(asked, KEPT // len(ATTRIBUTES), lambda one: one.id, SEED, "measured")


def _odd(key: str, pair: Sequence[Picture], odd: Picture) -> Sample:
    label = number(SEED, "ooo", key) % 3
    images = [one.file for one in pair]
    images.insert(label, odd.file)
    return Sample(key, "ooo", tuple(images), (), label)


def copies(world: World) -> Iterator[Sample]:
    """Two copies of one picture and one of another, which is spoilt in the same way as one of them."""
    for name, own in world.copies.items():
        for pair in combinations(own, 2):
            for other in world.others(name):
                for odd in world.copies[other]:
                    if odd.kind in (pair[0].kind, pair[1].kind):
                        yield _odd("/".join(_stem(one) for one in (*pair, odd)), pair, odd)


def crops(world: World) -> Iterator[Sample]:
    """Two crops of one photograph and one of another."""
    for pair in combinations(world.photographs, 2):
        if world.clean[pair[0]].source == world.clean[pair[1]].source:
            for other in world.others(pair[0], world.photographs):
                yield _odd("/".join((*pair, other)), [world.clean[one] for one in pair], world.clean[other])


def gallery(world: World) -> list[Picture]:
    """What `ir` ranks: everything that is spoilt."""
    return [*(one for own in world.copies.values() for one in own), *world.halves]


def retrieved(world: World) -> Iterator[Sample]:
    """The copies of a clean picture: mild ones are easy, others hard; what shows it in part is junk."""
    ranked = gallery(world)
    for name, query in world.clean.items():
        own = [at for at, one in enumerate(ranked) if one.of == name and not one.half]
        junk = [at for at, one in enumerate(ranked) if one.source == query.source and at not in own]
        easy = [at for at in own if ranked[at].severity <= MILD]
        hard = [at for at in own if at not in easy]
        yield Sample(name, "ir", (query.file,), easy=tuple(easy), hard=tuple(hard), junk=tuple(junk))


def among(world: World) -> Iterator[Sample]:
    """Which of N strongly spoilt pictures a text describes."""
    for choices in (2, 3, 4, 6, 8):
        for turn in range(EACH):
            key = f"{choices}/{turn}"
            name = world.things[turn % len(world.things)]
            rest = world.others(name, world.things)
            wrong = sorted(rest, key=lambda one: number(SEED, "nafc", key, one))[: choices - 1]
            shown = [
                _drawn([copy for copy in world.copies[one] if copy.severity > MILD], key, one)
                for one in (name, *wrong)
            ]
            order = sorted(range(choices), key=lambda at: number(SEED, "order", key, at))
            images = tuple(shown[at].file for at in order)
            yield Sample(key, "nafc", images, (describe(name),), order.index(0))


def _drawn(pictures: Sequence[Picture], *parts: object) -> Picture:
    return pictures[number(SEED, "which", *parts) % len(pictures)]
