"""Questions whose answers are known because the pictures were made so, in the form of UniPercept-Bench.

An entry has the published fields: `image`, `question` with its options one a line, and `answer`, a letter;
beside them `category`, `criterion` and `template`, in the words of the taxonomy of its paper where they fit
(arXiv 2512.21675, tables 10 to 12).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from numpy.random import Generator

if TYPE_CHECKING:
    from pocket.unipercept.benchmark import Shown

#: Degradation -> what a question calls it.
NAMES = {
    "blur": "Blur",
    "noise": "Noise",
    "jpeg": "JPEG blocks",
    "grid": "A regular pattern over the picture",
    "downscale": "Low resolution",
    "oversaturate": "Too strong colours",
    "blotch": "Coloured stains",
    "wash_out": "Too little contrast",
}
NONE = "None"
#: From here on a severity is obvious; up to there it is slight. What lies between is not asked about.
SLIGHT, OBVIOUS = 0.35, 0.75
YES_NO = ("Yes", "No")
HALVES = {
    "left": "The left half",
    "right": "The right half",
    "top": "The upper half",
    "bottom": "The lower half",
}
PLACES = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")
#: By how much the mean brightness (0 to 1) must differ to be called too dark or too bright.
LIGHT = 0.08


def questions(made: Sequence[Shown], rng: Generator) -> dict[str, list[dict[str, Any]]]:
    """Domain -> entries, in the order of the pictures."""
    asked = {"IAA": _aesthetics, "IQA": _quality, "ISTA": _structure}
    return {
        domain: [entry for shown in made for entry in ask(shown, made, rng)] for domain, ask in asked.items()
    }


def _quality(shown: Shown, made: Sequence[Shown], rng: Generator) -> Iterator[dict[str, Any]]:
    if shown.half:
        (kind,) = shown.applied
        text = f"Which part of this image has {NAMES[kind].lower()}?"
        order = [*HALVES.values()]
        yield _entry(
            shown, text, order, HALVES[shown.half], "Distortion Location", "Location Description", "Which"
        )
        return
    (kind, severity), *_ = [*shown.applied.items(), ("", 0.0)]
    if kind in NAMES or not kind:
        right = NAMES.get(kind, NONE)
        others = [name for name in (*NAMES.values(), NONE) if name != right]
        options = _shuffled(right, list(rng.permutation(others)[:3]), rng)
        text = "What is the main distortion of this image?"
        yield _entry(shown, text, options, right, "Distortion Type", "Distortion Type", "What")
    if not SLIGHT < severity < OBVIOUS:
        right = NONE if not kind else "Slight" if severity <= SLIGHT else "Obvious"
        text = "How severe is the distortion of this image?"
        levels = [NONE, "Slight", "Obvious"]
        yield _entry(shown, text, levels, right, "Distortion Severity", "Severity Level", "Level-Prediction")
    if kind in ("blur", "noise") or (not kind and rng.random() < 0.5):
        asked = kind if rng.random() < 0.5 and kind else ("blur", "noise")[int(rng.integers(2))]
        text = f"Is there visible {asked} in this image?"
        right = YES_NO[asked != kind]
        yield _entry(shown, text, YES_NO, right, "Distortion Type", "Distortion Type", "Yes-No")


def _aesthetics(shown: Shown, made: Sequence[Shown], rng: Generator) -> Iterator[dict[str, Any]]:
    if not shown.applied and shown.place:
        text = "Where in this image is its subject?"
        others = [place for place in PLACES if place != shown.place]
        options = _shuffled(shown.place, list(rng.permutation(others)[:3]), rng)
        about = ("Composition & Design", "Placement of the Subject", "Which")
        yield _entry(
            shown, text, [option.capitalize() for option in options], shown.place.capitalize(), *about
        )
    if "expose" in shown.applied or (not shown.applied and not shown.place):
        change = shown.measures["mean"] - shown.clean["mean"]
        if shown.applied and abs(change) < LIGHT:
            return
        right = "Neither" if not shown.applied else "Too bright" if change > 0 else "Too dark"
        text = "Is the exposure of this image too bright or too dark?"
        options = ["Too bright", "Too dark", "Neither"]
        about = ("Technical Execution", "Exposure", "What")
        yield _entry(shown, text, options, right, *about)
    if "blur" in shown.applied and not shown.half and not SLIGHT < shown.applied["blur"] < OBVIOUS:
        right = "Low" if shown.applied["blur"] >= OBVIOUS else "Medium"
        about = ("Technical Execution", "Clarity Level", "Level-Prediction")
        text = "How clear is this image?"
        yield _entry(shown, text, ["Low", "Medium", "High"], right, *about)


def _structure(shown: Shown, made: Sequence[Shown], rng: Generator) -> Iterator[dict[str, Any]]:
    if not shown.applied:
        others = sorted({other.shows for other in made} - {shown.shows})
        options = _shuffled(shown.shows, list(rng.permutation(others)[:3]), rng)
        capital = [option[0].upper() + option[1:] for option in options]
        right = shown.shows[0].upper() + shown.shows[1:]
        yield _entry(shown, "What does this image show?", capital, right, "Scene", "Scene Name", "What")
    if "grid" in shown.applied or not shown.applied:
        text = "Does a regular pattern run across this image?"
        right = YES_NO["grid" not in shown.applied]
        yield _entry(shown, text, YES_NO, right, "Physical Structure", "Arrangement", "Yes-No")


def _entry(
    shown: Shown, text: str, options: Sequence[str], right: str, category: str, criterion: str, template: str
) -> dict[str, Any]:
    letters = "ABCD"[: len(options)]
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    return {
        "image": f"{shown.name}.png",
        "question": "\n".join([text, *lines]),
        "answer": letters[list(options).index(right)],
        "category": category,
        "criterion": criterion,
        "template": template,
    }


def _shuffled(right: str, others: Sequence[str], rng: Generator) -> list[str]:
    return [str(option) for option in rng.permutation([right, *others])]
