"""The tasks of UniSim-Bench: from what a judge says of pictures and texts to the choice that it makes.

One evaluator a task, whatever the judge: an encoder compares embeddings, a scorer gives numbers, pixels are
subtracted. A judge that has nothing to say on a task raises `Undefined`, with the reason; a number is never
made up. Of equal values the first choice is taken, as published. Generative models choose by themselves, see
`eval.unisim.generative`.

Shapes: Q questions, C choices of one, G gallery pictures, n pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from eval.unisim.retrieval import medium_and_hard
from eval.unisim.samples import Attribute, Sample, Task
from reward_plugin.unisim.formulas import choose

#: Technique -> a value of each pair, float64 [n], NaN where there is none. The only technique is called "".
Values: TypeAlias = Mapping[str, np.ndarray]
#: Technique -> an array of values for each question [C].
Rows: TypeAlias = Mapping[str, Sequence[np.ndarray]]
ONLY = ""


class Undefined(Exception):
    """A judge cannot do a task; the message is the reason, for the report."""


class Judge(Protocol):
    """What makes choices. Pictures are named as in the manifest; more is more alike, more fitting, more of
    it.
    """

    def alike(self, first: Sequence[str], second: Sequence[str]) -> Values:
        """How alike two pictures are, of each pair."""

    def fits(self, images: Sequence[str], texts: Sequence[str]) -> Values:
        """How well a text fits a picture, of each pair."""

    def shows(self, images: Sequence[str], attribute: Attribute | None) -> Values:
        """How much of an attribute a picture has; None: how high its quality is."""

    def why(self, images: Sequence[str], texts: Sequence[str]) -> str | None:
        """Why one of these pictures, or pairs with a text, has no value; None where all are good."""


@dataclass(frozen=True)
class Outcome:
    """What became of one question.

    Attributes:
        sample: The question.
        choices: Technique -> index of the choice; None in it where no choice could be read.
        values: Technique -> what the choice was made by [C].
        precisions: Average precision of a ranking, medium and hard; `ir` only.
        error: Why the question is left out; None where it was asked.
        text: What a generative model wrote.
    """

    sample: Sample
    choices: Mapping[str, int | None] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    precisions: tuple[float, float] | None = None
    error: str | None = None
    text: str | None = None


def evaluate(
    task: Task, samples: Sequence[Sample], judge: Judge, gallery: Sequence[str] = ()
) -> list[Outcome]:
    """What a judge chooses, question by question.

    Args:
        task: Of all the samples.
        samples: The questions.
        judge: Whom to ask.
        gallery: What `ir` ranks.

    Raises:
        Undefined: it cannot do the task.
    """
    if task == "ir":
        return _ranked(samples, gallery, judge)
    values = VALUES[task](samples, judge)
    return [
        _chosen(sample, {name: rows[index] for name, rows in values.items()}, judge)
        for index, sample in enumerate(samples)
    ]


def _chosen(sample: Sample, values: Mapping[str, np.ndarray], judge: Judge) -> Outcome:
    choices = {name: float(choose(row).choice) for name, row in values.items()}
    if np.isfinite(list(choices.values())).all():
        return Outcome(sample, {name: int(choice) for name, choice in choices.items()}, values)
    reason = judge.why(sample.images, sample.texts) or "it has no value for one of the choices"
    return Outcome(sample, error=reason)


def _alike(samples: Sequence[Sample], judge: Judge) -> Rows:
    """Reference with each of the two others [Q, 2]."""
    reference, first, second = zip(*(sample.images for sample in samples), strict=True)
    return _per_question(judge.alike(reference * 2, first + second), 2)


def _odd(samples: Sequence[Sample], judge: Judge) -> Rows:
    """The other two of each picture with one another [Q, 3]: the odd one's are the most alike."""
    a, b, c = zip(*(sample.images for sample in samples), strict=True)
    return _per_question(judge.alike(b + a + a, c + c + b), 3)


def _fits(samples: Sequence[Sample], judge: Judge) -> Rows:
    """Each picture with the text [Q, 2]."""
    first, second = zip(*(sample.images for sample in samples), strict=True)
    texts = [sample.texts[0] for sample in samples]
    return _per_question(judge.fits(first + second, texts * 2), 2)


def _texts_fit(samples: Sequence[Sample], judge: Judge) -> Rows:
    """The picture with each text [Q, 2]."""
    images = [sample.images[0] for sample in samples]
    first, second = zip(*(sample.texts for sample in samples), strict=True)
    return _per_question(judge.fits(images * 2, first + second), 2)


def _shows(samples: Sequence[Sample], judge: Judge) -> Rows:
    """Quality, or the question's attribute, of each picture [Q, 2]."""
    found: dict[str, np.ndarray] = {}
    for attribute in dict.fromkeys(sample.attribute for sample in samples):
        at = [index for index, sample in enumerate(samples) if sample.attribute == attribute]
        first, second = zip(*(samples[index].images for index in at), strict=True)
        for name, rows in _split(judge.shows(first + second, attribute), 2).items():
            found.setdefault(name, np.full((len(samples), 2), np.nan))[at] = rows
    return {name: list(rows) for name, rows in found.items()}


def _fits_of_many(samples: Sequence[Sample], judge: Judge) -> Rows:
    """Each picture with the text, of any number of them: Q arrays [C]."""
    images = [image for sample in samples for image in sample.images]
    texts = [sample.texts[0] for sample in samples for _ in sample.images]
    ends = np.cumsum([len(sample.images) for sample in samples])[:-1]
    return {name: np.split(values, ends) for name, values in judge.fits(images, texts).items()}


#: Task -> technique -> a row of values for each question, by which it chooses.
VALUES: dict[Task, Callable[[Sequence[Sample], Judge], Rows]] = {
    "img_2afc": _alike,
    "it_2afc": _fits,
    "text_2afc": _texts_fit,
    "iqa": _shows,
    "paa": _shows,
    "ooo": _odd,
    "nafc": _fits_of_many,
}


def _ranked(samples: Sequence[Sample], gallery: Sequence[str], judge: Judge) -> list[Outcome]:
    """The gallery by likeness to each query, equal ones in the gallery's order.

    A gallery picture without a value takes part in no ranking; a query whose positive it is cannot be asked.
    """
    found = []
    for sample in samples:
        alike = judge.alike(sample.images * len(gallery), gallery)
        likeness = alike[ONLY if ONLY in alike else next(iter(alike))]
        there = np.isfinite(likeness)
        lost = [index for index in (*sample.easy, *sample.hard) if not there[index]]
        if lost:
            reason = judge.why([*sample.images, gallery[lost[0]]], ())
            found.append(Outcome(sample, error=reason or "it has no value for a picture that it should find"))
            continue
        order = np.argsort(-likeness, kind="stable")
        order = order[there[order]]
        found.append(
            Outcome(sample, precisions=medium_and_hard(order, sample.easy, sample.hard, sample.junk))
        )
    return found


def _per_question(values: Values, parts: int) -> Rows:
    """[parts * Q] of each technique as Q arrays [parts]."""
    return {name: list(rows) for name, rows in _split(values, parts).items()}


def _split(values: Values, parts: int) -> dict[str, np.ndarray]:
    """[parts * Q] of each technique as [Q, parts]."""
    return {name: np.stack(np.split(column, parts), axis=1) for name, column in values.items()}
