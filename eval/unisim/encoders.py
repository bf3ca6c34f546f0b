"""Encoders as judges: every distinct picture and text is encoded once, whatever asks for it, ever.

Embeddings lie in `embeddings/`, in one file for each encoder, by the content of what was encoded. Pictures of
all data sets that an encoder still has questions of go through it together, in full batches; what a store has
already, also from another data set or an interrupted run, is not even read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from eval.unisim.parts import Part, first_problem
from eval.unisim.samples import Attribute
from eval.unisim.store import VectorStore, text_key
from eval.unisim.tasks import ONLY, Values
from reward_plugin.types import ImageLike
from reward_plugin.unisim.formulas import rate, similarity
from reward_plugin.unisim.prompts import texts_for

#: Batches that an encoder is given at once, to read ahead in; an interruption costs at most so many.
AT_ONCE = 4


class Encodes(Protocol):
    """What `reward_plugin.unisim.encoder.Encoder` does."""

    def embed_images(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, Sequence[str | None]]:
        """Vectors of length 1 [N, D], NaN where a picture cannot be read; and why."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1 [N, D]."""


@dataclass
class EncoderJudge:
    """Chooses by cosines; see `eval.unisim.tasks.Judge`.

    Attributes:
        store: Holds all embeddings that there are.
        keys: Picture -> its key in the store.
        problems: Picture -> why it has no embedding.
        techniques: How quality and attributes are rated.
    """

    store: VectorStore
    keys: Mapping[str, str]
    problems: Mapping[str, str]
    techniques: Sequence[str]

    def alike(self, first: Sequence[str], second: Sequence[str]) -> Values:
        """Cosine of two pictures."""
        return {ONLY: similarity(self._pictures(first), self._pictures(second))}

    def fits(self, images: Sequence[str], texts: Sequence[str]) -> Values:
        """Cosine of picture and text."""
        return {ONLY: similarity(self._pictures(images), self._texts(texts))}

    def shows(self, images: Sequence[str], attribute: Attribute | None) -> Values:
        """Cosine with a text that names the attribute, or how far it is that rather than its opposite."""
        pictures = self._pictures(images)
        return {
            name: rate(pictures, self._texts(texts_for(attribute or "quality", name)))
            for name in self.techniques
        }

    def why(self, images: Sequence[str], texts: Sequence[str]) -> str | None:
        """What is wrong with the first picture without an embedding."""
        return first_problem(images, self.problems)

    def _pictures(self, names: Sequence[str]) -> np.ndarray:
        return self.store.get([self.keys[name] for name in names])

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.store.get([text_key(text) for text in texts])


@dataclass
class Encoding:
    """What a set of parts needs of a store, and what is still missing in it.

    Attributes:
        pictures: Key -> path of pictures to encode, each content once.
        texts: Texts to encode.
        kept: How many pictures and texts the store has already.
        problems: Key -> why a picture has no embedding.
    """

    pictures: dict[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    kept: tuple[int, int] = (0, 0)
    problems: dict[str, str] = field(default_factory=dict)


def needed(parts: Sequence[Part], store: VectorStore, techniques: Sequence[str]) -> Encoding:
    """Which pictures and texts are still to be encoded."""
    pictures: dict[str, str] = {}
    texts: dict[str, None] = {}
    for part in parts:
        for name in part.pictures:
            pictures.setdefault(part.manifest.hashes[name], part.path(name))
        texts |= dict.fromkeys(text for sample in part.todo for text in sample.texts)
        if part.manifest.task in ("iqa", "paa"):
            quantities = dict.fromkeys(sample.attribute or "quality" for sample in part.todo)
            for quantity in quantities:
                texts |= dict.fromkeys(text for name in techniques for text in texts_for(quantity, name))
    missing = {key: path for key, path in pictures.items() if key not in store}
    unknown = [text for text in texts if text_key(text) not in store]
    return Encoding(missing, unknown, (len(pictures) - len(missing), len(texts) - len(unknown)))


def encode(work: Encoding, encoder: Encodes, store: VectorStore, *, batch_size: int, label: str = "") -> None:
    """Encode what is missing; after every few batches it is in the store.

    Args:
        work: What is missing; `problems` is filled with what cannot be encoded.
        encoder: Encodes, and reads ahead while it does.
        store: Where embeddings go.
        batch_size: Pictures, or texts, at once.
        label: Text of the progress bar; no bar without one.
    """
    shown = bool(label) and sys.stderr.isatty()
    with tqdm(total=len(work.texts), desc=f"{label}, texts", disable=not shown or not work.texts) as bar:
        for start in range(0, len(work.texts), AT_ONCE * batch_size):
            texts = work.texts[start : start + AT_ONCE * batch_size]
            _keep(store, [text_key(text) for text in texts], encoder.embed_texts(texts))
            bar.update(len(texts))
    items = list(work.pictures.items())
    with tqdm(total=len(items), desc=label, unit="img", disable=not shown, smoothing=0.1) as bar:
        for start in range(0, len(items), AT_ONCE * batch_size):
            keys, paths = zip(*items[start : start + AT_ONCE * batch_size], strict=True)
            vectors, errors = encoder.embed_images(paths)
            for key, path, error in zip(keys, paths, errors, strict=True):
                if error is not None:
                    work.problems[key] = error.removeprefix(f"{path}: ")
            _keep(store, keys, vectors)
            bar.update(len(keys))


def _keep(store: VectorStore, keys: Sequence[str], vectors: np.ndarray) -> None:
    there = np.isfinite(vectors).all(axis=1)
    store.add([key for key, good in zip(keys, there, strict=True) if good], vectors[there])


def ask_encoder(
    parts: Sequence[Part],
    load: Callable[[], Encodes],
    path: Path,
    *,
    techniques: Sequence[str],
    batch_size: int,
    label: str = "",
) -> dict[str, int]:
    """Answer all parts by embeddings.

    Args:
        parts: The questions.
        load: Gets the encoder ready; not called where all embeddings are there.
        path: Of the store.
        techniques: How quality and attributes are rated.
        batch_size: Pictures, or texts, at once.
        label: Text of the progress bar.

    Returns:
        How many pictures and texts were encoded now, and how many the store had.
    """
    with VectorStore(path) as store:
        work = needed(parts, store, techniques)
        if work.pictures or work.texts:
            encode(work, load(), store, batch_size=batch_size, label=label)
        for part in parts:
            if not part.todo:
                continue
            keys = dict(part.manifest.hashes)
            problems = {name: work.problems[key] for name, key in keys.items() if key in work.problems}
            # a file that is broken now may have had an embedding before: the manifest's content counts
            broken = {name: why for name, why in part.broken.items() if keys[name] not in store}
            part.ask(EncoderJudge(store, keys, problems | broken, techniques))
    return {
        "pictures": len(work.pictures),
        "texts": len(work.texts),
        "kept_pictures": work.kept[0],
        "kept_texts": work.kept[1],
    }
