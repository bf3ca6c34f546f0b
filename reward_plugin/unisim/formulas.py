"""What UniSim's encoders answer, from embeddings alone: pure functions of arrays.

Embeddings are float [..., D] of length 1; an item that could not be embedded is a row of NaN. Leading axes
broadcast. The formulas are those of the published evaluation code, which takes every cosine without
temperature.

A choice is the index of the largest score, the first of equal ones. It is a float, so that it can be NaN: a
question of which one part is missing has no answer.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray


class Choices(NamedTuple):
    """Answers to questions.

    Attributes:
        choice: float [...]: index of the chosen one, or NaN.
        margin: float [...]: by how much its score is above that of the next best, 0 for a tie; or NaN.
    """

    choice: Array
    margin: Array


def similarity(first: Array, second: Array) -> Array:
    """Cosine of the vectors of two arrays, [..., D] and [..., D] to [...]; -1 to 1.

    Sums in float64, whatever the format, and rounds to it: equal embeddings have equal similarities.
    """
    product = np.asarray(first, np.float64) * np.asarray(second, np.float64)
    return product.sum(axis=-1).astype(np.result_type(first, second))


def similarities(first: Array, second: Array) -> Array:
    """Cosine of every vector of one array with every vector of another, [N, D] and [M, D] to [N, M]."""
    product = np.asarray(first, np.float64) @ np.asarray(second, np.float64).T
    return product.astype(np.result_type(first, second))


def choose(scores: Array) -> Choices:
    """The largest of the scores on the last axis, of which there are two or more; the first of equal ones."""
    scores = np.asarray(scores)
    if scores.ndim == 0 or scores.shape[-1] < 2:
        raise ValueError(f"scores of shape {scores.shape}: a choice is among two or more, on the last axis")
    missing = np.isnan(scores).any(axis=-1)
    ordered = np.sort(scores, axis=-1)
    choice = np.where(missing, np.nan, scores.argmax(axis=-1))
    return Choices(choice, np.where(missing, np.nan, ordered[..., -1] - ordered[..., -2]))


def img_2afc(reference: Array, first: Array, other: Array) -> Choices:
    """Which of two pictures is closer to the reference: 0 the first, 1 the other."""
    return choose(_stacked(similarity(reference, first), similarity(reference, other)))


def it_2afc(text: Array, first: Array, other: Array) -> Choices:
    """Which of two pictures fits the text better: 0 the first, 1 the other."""
    return choose(_stacked(similarity(text, first), similarity(text, other)))


def text_2afc(image: Array, first: Array, other: Array) -> Choices:
    """Which of two texts fits the picture better: 0 the first, 1 the other."""
    return choose(_stacked(similarity(image, first), similarity(image, other)))


def nafc(text: Array, images: Array) -> Choices:
    """Which of N pictures fits the text best; text [..., D], images [..., N, D]."""
    return choose(similarity(np.asarray(text)[..., None, :], images))


def odd_one_out(first: Array, second: Array, third: Array) -> Choices:
    """Which of three pictures does not belong: the one whose two others are most alike."""
    return choose(_stacked(similarity(second, third), similarity(first, third), similarity(first, second)))


def clip_iqa(image: Array, good: Array, bad: Array) -> Array:
    """How far a picture is the one rather than its opposite: softmax over the two cosines; 0.12 to 0.88.

    Wang et al., "Exploring CLIP for Assessing the Look and Feel of Images", arXiv 2207.12396; there the
    cosines are multiplied by CLIP's temperature first, here they are not. It changes no choice between two.
    """
    difference = similarity(image, good) - similarity(image, bad)
    return 1 / (1 + np.exp(-difference))


def rate(image: Array, texts: Array) -> Array:
    """How well pictures [..., D] fit one description [1, D], or one rather than its opposite [2, D]: [...].

    The first is the "naive" score, a cosine; the second that of CLIP-IQA. `choose` compares two of them.
    """
    if len(texts) == 1:
        return similarity(image, texts[0])
    good, bad = texts
    return clip_iqa(image, good, bad)


def ranking(query: Array, gallery: Array) -> Array:
    """Indices of the gallery [M, D] for each query [Q, D], the most similar first: int [Q, M].

    Equal ones keep the gallery's order.

    Raises:
        ValueError: a vector is NaN: what could not be embedded has no place in a ranking.
    """
    for name, vectors in (("query", query), ("gallery", gallery)):
        if missing := int(np.isnan(vectors).any(axis=-1).sum()):
            raise ValueError(f"{missing} vectors of the {name} are NaN; leave them out, and count them")
    return np.argsort(-similarities(query, gallery), axis=-1, kind="stable")


def _stacked(*scores: Array) -> Array:
    return np.stack(np.broadcast_arrays(*scores), axis=-1)
