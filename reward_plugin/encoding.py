"""Pictures as they are sent: without loss, and without being copied where the caller's memory will do."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from reward_plugin.errors import BadImage
from reward_plugin.images import MAX_PIXELS, to_array, to_png
from reward_plugin.multipart import head
from reward_plugin.types import ImageLike
from reward_plugin.wire import NPY, VERSION

Buffer: TypeAlias = bytes | memoryview

#: Bytes that are handed to the socket at once. What the system's buffer does not take of it is copied by
#: every further attempt, so one piece for a whole picture would be copied several times over.
CHUNK = 1 << 18


@dataclass(frozen=True)
class Picture:
    """One encoded picture.

    Attributes:
        head: A .npy header, or nothing.
        content: What follows: rows of pixels in the caller's own memory, or an image file.
    """

    head: bytes
    content: Buffer

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + len(self.content)


def encode(image: ImageLike, raw: bool) -> Picture:
    """A picture ready to be sent; encoded bytes stay as they are.

    Args:
        image: see `ImageLike`.
        raw: as a .npy file, for a server on the same machine; otherwise as PNG.

    Raises:
        BadImage: it cannot be read.
    """
    if isinstance(image, bytes):
        return Picture(b"", image)
    if not raw:
        return Picture(b"", to_png(image))
    array = image if isinstance(image, np.ndarray) and _is_plain(image) else to_array(image)
    return Picture(_npy_header(array.shape), np.ascontiguousarray(array).data.cast("B"))


def encode_each(images: Sequence[ImageLike], raw: bool) -> tuple[list[Picture], list[str | None]]:
    """The pictures that can be read, in order, and for each item None, or why it is not among them."""
    good: list[Picture] = []
    errors: list[str | None] = []
    for image in images:
        try:
            good.append(encode(image, raw))
            errors.append(None)
        except BadImage as error:
            errors.append(str(error))
    return good, errors


def digest(picture: Picture, prompt: str | None, scored_by: bytes) -> bytes:
    """Equal for equal content, prompt and scorers, and for nothing else. (With the processors' own
    instructions SHA-256 is the fastest of the strong ones.)
    """
    text = b"" if prompt is None else b"=" + prompt.encode("utf-8", "surrogatepass")
    state = hashlib.sha256(b"%d:%d:%d;" % (len(scored_by), len(text), len(picture.head)))
    for piece in (scored_by, text, picture.head, picture.content):
        state.update(piece)
    return state.digest()


class Body:
    """A request of `reward_plugin.wire` as pieces of memory that are never joined; can be sent repeatedly.

    Attributes:
        id: A name for the request, which comes back with its scores.
        headers: Content type and length.
    """

    def __init__(self, pictures: Sequence[Picture], prompts: Sequence[str] | None) -> None:
        """Pictures and, where there are prompts, one for each."""
        boundary = secrets.token_hex(16)  # 128 random bits do not occur in the pictures
        self.id = boundary[:16]
        request = json.dumps({"version": VERSION, "id": self.id, "prompts": prompts}).encode()
        self._pieces: list[Buffer] = [head(boundary, "request", "application/json") + request]
        for number, picture in enumerate(pictures):
            kind = NPY if picture.head else "application/octet-stream"
            before = head(boundary, "images", kind, str(number)) + picture.head
            self._pieces += [b"\r\n" + before, picture.content]
        self._pieces.append(f"\r\n--{boundary}--\r\n".encode())
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(sum(map(len, self._pieces))),
        }

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in order, in pieces of at most CHUNK: the only copy that is made of them here."""
        for piece in self._pieces:
            for start in range(0, len(piece), CHUNK):
                yield bytes(memoryview(piece)[start : start + CHUNK])


def _is_plain(array: np.ndarray) -> bool:
    """What `to_array` would return unchanged, after copying it."""
    shape = array.shape
    plain = array.dtype == np.uint8 and array.ndim == 3 and shape[2] == 3
    return plain and 0 < shape[0] * shape[1] <= MAX_PIXELS


@lru_cache(maxsize=64)
def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    return buffer.getvalue()
