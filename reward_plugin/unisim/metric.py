"""UniSim as a metric: how alike pictures are, how well texts fit them, how good they are, and choices.

metric = UniSim.load("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", weights="unisim_vit_b_32.pt")
metric.choose("img_2afc", ["reference.png", "first.png", "other.png"]).choice  # 0 or 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reward_plugin.types import ImageLike
from reward_plugin.unisim import formulas
from reward_plugin.unisim.encoder import Encoder
from reward_plugin.unisim.prompts import texts_for
from reward_plugin.unisim.questions import Answer, Question

NO_TEXT = "the model returned no finite embedding of a text"


class Values(NamedTuple):
    """One number an item.

    Attributes:
        values: float32 [N], NaN where there is none.
        errors: N reasons; None where there is a number.
    """

    values: np.ndarray
    errors: tuple[str | None, ...]


class UniSim:
    """An encoder with the published formulas. Any CLIP will do: an untuned one is a baseline."""

    def __init__(self, encoder: Encoder) -> None:
        """Take a loaded encoder."""
        self.encoder = encoder

    @staticmethod
    def load(path: str, weights: str | None = None, **options: Any) -> UniSim:
        """Load a CLIP and the tuned weights; the arguments are those of `Encoder.load`."""
        return UniSim(Encoder.load(path, weights, **options))

    def image_similarity(self, first: Sequence[ImageLike], second: Sequence[ImageLike]) -> Values:
        """Cosine of each picture with the one in its place in the other list, -1 to 1."""
        _check_lengths("first", first, "second", second)
        vectors, errors = self.encoder.embed_images([*first, *second])
        n = len(first)
        reasons = tuple(a or b for a, b in zip(errors[:n], errors[n:], strict=True))
        return Values(formulas.similarity(vectors[:n], vectors[n:]), reasons)

    def text_similarity(self, images: Sequence[ImageLike], texts: Sequence[str]) -> Values:
        """Cosine of each picture with its text, -1 to 1."""
        _check_lengths("images", images, "texts", texts)
        vectors, errors = self.encoder.embed_images(images)
        return _explained(formulas.similarity(vectors, self.encoder.embed_texts(texts)), errors)

    def rate(self, images: Sequence[ImageLike], quantity: str = "quality", formula: str = "naive") -> Values:
        """How good each picture is, or how bright, and so on.

        Args:
            images: what to rate.
            quantity: quality, brightness, colorfulness, contrast or sharpness.
            formula: naive: the cosine with one text, -1 to 1; paper: the same with the paper's spelling of
                it; clip_iqa: the softmax over a text and its opposite, 0.12 to 0.88.
        """
        texts = texts_for(quantity, formula)
        vectors, errors = self.encoder.embed_images(images)
        return _explained(formulas.rate(vectors, self.encoder.embed_texts(texts)), errors)

    def choose(
        self,
        task: str,
        images: Sequence[ImageLike],
        texts: Sequence[str] = (),
        attribute: str | None = None,
        formula: str = "naive",
    ) -> Answer:
        """Answer one question; see `reward_plugin.unisim.questions` for the tasks, and `answer` for many."""
        return self.answer([Question(task, images, texts, attribute)], formula)[0]

    def answer(self, questions: Sequence[Question], formula: str = "naive") -> list[Answer]:
        """Answer questions, together: every distinct picture and text is encoded once.

        Args:
            questions: of any tasks.
            formula: how `iqa` and `paa` rate a picture; see `rate`.
        """
        rating = {q.attribute or "quality": () for q in questions if q.task in ("iqa", "paa")}
        prompts = {quantity: texts_for(quantity, formula) for quantity in rating}
        vectors, errors = self.encoder.embed_images([image for q in questions for image in q.images])
        every = list(dict.fromkeys(text for q in questions for text in (*q.texts, *_prompts(q, prompts))))
        texts = dict(zip(every, self.encoder.embed_texts(every), strict=True))
        answers, start = [], 0
        for question in questions:
            own = slice(start, start := start + len(question.images))
            read = [texts[text] for text in (*question.texts, *_prompts(question, prompts))]
            scores = _scores(question.task, vectors[own], np.array(read))
            answers.append(_answer(scores, next(filter(None, errors[own]), None)))
        return answers


def _prompts(question: Question, prompts: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return prompts[question.attribute or "quality"] if question.task in ("iqa", "paa") else ()


def _scores(task: str, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """A score of each choice."""
    if task == "img_2afc":
        return formulas.similarity(images[0], images[1:])
    if task == "ooo":
        return formulas.similarity(images[[1, 0, 0]], images[[2, 2, 1]])
    if task == "text_2afc":
        return formulas.similarity(images[0], texts)
    return formulas.rate(images, texts)


def _answer(scores: np.ndarray, error: str | None) -> Answer:
    choice, margin = formulas.choose(scores)
    if np.isnan(choice):
        return Answer(None, error=error or NO_TEXT)
    return Answer(int(choice), tuple(map(float, scores)), float(margin))


def _explained(values: np.ndarray, errors: Sequence[str | None]) -> Values:
    reasons = [
        error or (NO_TEXT if np.isnan(value) else None) for value, error in zip(values, errors, strict=True)
    ]
    return Values(values, tuple(reasons))


def _check_lengths(name: str, first: Sequence[Any], other: str, second: Sequence[Any]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} {name} and {len(second)} {other}: they are compared one by one")
