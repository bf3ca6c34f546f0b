"""The pictures of one request, decoded in threads and within a bound on their memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TypeAlias

import numpy as np
import PIL.Image

from reward_plugin.errors import BadImage, TooLarge
from reward_plugin.images import MAX_PIXELS, NPY_MAGIC, Exif, to_pixels

#: An RGB image, or a uint8 [H, W, 3] array.
Picture: TypeAlias = "PIL.Image.Image | np.ndarray"
#: Pixels that the pictures of one request may have together: 512 million are 2 GB of RGB, as PIL keeps it.
MAX_TOTAL_PIXELS = 8 * MAX_PIXELS


def decode(
    images: Sequence[bytes | memoryview],
    pool: Executor,
    *,
    max_pixels: int = MAX_PIXELS,
    max_total: int = MAX_TOTAL_PIXELS,
    exif: Exif = "ignore",
) -> tuple[list[Picture], list[str | None]]:
    """The readable pictures, in order, and one entry per item: None, or why it is not among them.

    A .npy file is looked at where it is; anything else is decoded, several at a time.

    Raises:
        TooLarge: the pictures together have more than `max_total` pixels; at most one picture per thread is
            decoded beyond that.
    """
    work = _Work(max_pixels, max_total, exif)
    encoded = [image for image in images if not _is_npy(image)]
    decoded = iter(pool.map(work, encoded) if len(encoded) > 1 else map(work, encoded))
    good: list[Picture] = []
    errors: list[str | None] = []
    for image in images:
        picture = work(image) if _is_npy(image) else next(decoded)
        if work.left < 0:
            raise TooLarge(f"the pictures have more than {max_total} pixels: send fewer at once")
        errors.append(picture if isinstance(picture, str) else None)
        if not isinstance(picture, str):
            good.append(picture)
    return good, errors


class _Work:
    """Decodes pictures, or says why not, until those of the request have too many pixels together."""

    def __init__(self, max_pixels: int, max_total: int, exif: Exif) -> None:
        self.max_pixels, self.exif = max_pixels, exif
        self.left = max_total
        self._lock = threading.Lock()

    def __call__(self, image: bytes | memoryview) -> Picture | str:
        if self.left < 0:
            return "not looked at"
        try:
            picture = to_pixels(image, self.max_pixels, self.exif)
        except BadImage as error:
            return str(error)
        except Exception as error:  # a damaged file must not cost the others, whatever its decoder raises
            return f"cannot be decoded: {type(error).__name__}"
        with self._lock:
            self.left -= _pixels(picture)
        return picture


def _is_npy(image: bytes | memoryview) -> bool:
    return bytes(image[: len(NPY_MAGIC)]) == NPY_MAGIC


def _pixels(picture: Picture) -> int:
    if isinstance(picture, PIL.Image.Image):
        return picture.width * picture.height
    return picture.shape[0] * picture.shape[1]
