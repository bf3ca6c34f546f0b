"""Pictures and texts to embeddings of length 1, each distinct one once.

Preprocessing is CLIP's own (PIL bicubic, centre crop), texts are cut at the model's 77 tokens. Lengths are
taken in float32, whatever the model computes in.

Shapes: N items, D dimensions, B batch.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from reward_plugin.devices import resolve
from reward_plugin.prepare import ahead
from reward_plugin.scorers.batches import check_batch_size, fit_each
from reward_plugin.types import ImageLike
from reward_plugin.unisim.loading import load_clip
from reward_plugin.unisim.recent import Recent

if TYPE_CHECKING:
    import PIL.Image
    from transformers import CLIPModel, CLIPTokenizer

NOT_FINITE = "the model returned an embedding that is not finite"


@dataclass
class Counts:
    """What an encoder has done so far.

    Attributes:
        pictures: encoded by the model.
        texts: the same.
        kept_pictures: asked for again, and not encoded again.
        kept_texts: the same.
    """

    pictures: int = 0
    texts: int = 0
    kept_pictures: int = 0
    kept_texts: int = 0


@dataclass(frozen=True)
class _Prepared:
    """A picture on its way: why it cannot be read; or its digest, and itself as the model sees it."""

    error: str | None
    key: bytes = b""
    picture: PIL.Image.Image | None = None
    pixels: torch.Tensor | None = None


class Encoder:
    """A CLIP that embeds pictures and texts, and keeps what it has embedded. Thread-safe.

    Attributes:
        model: a `CLIPModel`.
        counts: how many items were encoded, and how many were not because they had been before.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        processor: Any,
        batch_size: int = 64,
        *,
        cache_items: int = 20_000,
        threads: int = 4,
    ) -> None:
        """Take a loaded model and what feeds it; see `load`.

        Args:
            processor: called with pictures, returns what has `pixel_values`, as transformers' PIL processors
                do.
            batch_size: items per forward pass.
            cache_items: how many embeddings of pictures are kept, and of texts; about 3 kB each.
            threads: how many decode and resize pictures ahead of the model; 0: none beside the caller's.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.batch_size = check_batch_size(batch_size)
        self.threads = threads
        self.counts = Counts()
        self._pictures, self._texts = Recent(cache_items), Recent(cache_items)
        self._lock = threading.Lock()

    @staticmethod
    def load(
        path: str,
        weights: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 64,
        revision: str | None = None,
        *,
        alpha: float | None = None,
        cache_items: int = 20_000,
        threads: int = 4,
    ) -> Encoder:
        """Load a CLIP, and tuned weights on top of it.

        Args:
            path: folder or hub id of a `CLIPModel`.
            weights: UniSim's published file, an open_clip file, an adapter folder, or the folder of a
                `CLIPModel`; see `reward_plugin.unisim.loading.load_clip`.
            device: auto, cpu, cuda or cuda:N.
            dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
            batch_size: items per forward pass.
            revision: branch, tag or commit of a hub id.
            alpha: LoRA's alpha of a published file that does not say; None: 32 at rank 16.
            cache_items: see `Encoder`.
            threads: see `Encoder`.

        Raises:
            CheckpointError: the model cannot be loaded.
            ConfigError: an option is wrong.
        """
        where, precision = resolve(device, dtype)
        model, tokenizer, processor = load_clip(
            path, weights, dtype=precision, revision=revision, alpha=alpha
        )
        return Encoder(
            model.to(where), tokenizer, processor, batch_size, cache_items=cache_items, threads=threads
        )

    @property
    def dimension(self) -> int:
        """D, the length of every embedding."""
        return int(self.model.config.projection_dim)

    def embed_images(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, tuple[str | None, ...]]:
        """Embed pictures.

        Returns:
            float32 [N, D], of length 1, or a row of NaN where there is none; and N reasons why there is none,
            None where there is one.
        """
        with self._lock:
            rows = np.full((len(images), self.dimension), np.nan, dtype=np.float32)
            errors: list[str | None] = [None] * len(images)
            first: dict[bytes, int] = {}
            again: list[tuple[int, int]] = []
            batch: list[tuple[int, bytes, torch.Tensor]] = []
            prepared = ahead(self._prepare, images, threads=self.threads, waiting=self.batch_size)
            for i, item in enumerate(prepared):
                errors[i] = item.error
                if item.picture is None:
                    continue
                if item.key in first:
                    again.append((i, first[item.key]))
                    continue
                first[item.key] = i
                if (kept := self._pictures.get(item.key)) is not None:
                    rows[i] = kept
                    self.counts.kept_pictures += 1
                    continue
                pixels = self._pixels(item.picture) if item.pixels is None else item.pixels
                batch.append((i, item.key, pixels))
                if len(batch) == self.batch_size:
                    self._see(batch, rows, errors)
                    batch = []
            self._see(batch, rows, errors)
            for i, same in again:
                rows[i], errors[i] = rows[same], errors[same]
            self.counts.kept_pictures += len(again)
            return rows, tuple(errors)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 [N, D], of length 1; a row of NaN where the model returns nothing finite."""
        with self._lock:
            rows = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
            places: dict[str, list[int]] = {}
            for i, text in enumerate(texts):
                places.setdefault(text, []).append(i)
            new = []
            for text, at in places.items():
                if (kept := self._texts.get(_digest(text.encode()))) is not None:
                    rows[at] = kept
                else:
                    new.append(text)
            self.counts.kept_texts += len(texts) - len(new)
            for start in range(0, len(new), self.batch_size):
                batch = new[start : start + self.batch_size]
                self.counts.texts += len(batch)
                for text, vector in zip(batch, self._read(batch), strict=True):
                    rows[places[text]] = vector
                    if np.isfinite(vector).all():
                        self._texts.keep(_digest(text.encode()), vector)
            return rows

    def _prepare(self, image: ImageLike) -> _Prepared:
        """In a thread: decode, and where the picture is not known yet, resize."""
        good, errors = fit_each([image])
        if not good:
            return _Prepared(errors[0])
        picture = good[0]
        key = _digest(f"{picture.width}x{picture.height};".encode(), picture.tobytes())
        return _Prepared(None, key, picture, None if key in self._pictures else self._pixels(picture))

    def _pixels(self, picture: PIL.Image.Image) -> torch.Tensor:
        return self.processor([picture], return_tensors="pt").pixel_values[0]

    def _see(
        self, batch: Sequence[tuple[int, bytes, torch.Tensor]], rows: np.ndarray, errors: list[str | None]
    ) -> None:
        """Embed a batch of new pictures into their rows."""
        if not batch:
            return
        pixels = torch.stack([pixels for _, _, pixels in batch]).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            seen = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
            vectors = F.normalize(seen.float(), dim=-1).cpu().numpy()
        self.counts.pictures += len(batch)
        for (i, key, _), vector in zip(batch, vectors, strict=True):
            if np.isfinite(vector).all():
                rows[i] = vector
                self._pictures.keep(key, vector)
            else:
                errors[i] = NOT_FINITE

    def _read(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of a batch of texts, [B, D]; not finite ones are NaN."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            read = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            vectors = F.normalize(self.model.text_projection(read).float(), dim=-1).cpu().numpy()
        return np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, np.nan)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
