"""What a damaged request is, and the good ones that it is made from."""

from __future__ import annotations

import base64
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server_stamp import blank, prompt_of, stamp
from reward_plugin.images import to_npy, to_png
from reward_plugin.wire import ScoreRequest, encode_request

REFUSED = frozenset({"400", "413", "415", "422"})
#: What may answer something that is not HTTP; "closed" is a connection that ended without an answer.
NOT_HTTP = frozenset({"400", "413", "431", "501", "closed"})
#: A row that must be missing, and one of which nothing is expected.
MISSING, ANY = -1, -2
JSON, FORM = "application/json", "multipart/form-data"


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        data: All bytes of it, head and body.
        allowed: Statuses that may answer it, beside 503.
        rows: For a 200: the serial of each picture, MISSING, or ANY.
        hang_up: Close without waiting for an answer.
        name: Of the kind of damage.
    """

    data: bytes
    allowed: frozenset[str]
    rows: tuple[int, ...] | None = None
    hang_up: bool = False
    name: str = ""


class _Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


class Draw:
    """Chance, and good parts to damage; the same seed gives the same ones."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self._folder = tempfile.TemporaryDirectory()
        self._trap = Path(self._folder.name) / "unpickled"

    def good(self) -> tuple[str, bytes]:
        """Content type and body of a good request of one to three pictures."""
        images = tuple(self.picture(i) for i in range(self.random.randint(1, 3)))
        return encode_request(ScoreRequest(images, tuple("abc"[: len(images)])))

    def picture(self, serial: int) -> bytes:
        """A good picture, as PNG or raw."""
        array = blank(self.random.choice([2, 5, 16]))
        stamp(array, serial)
        return self.random.choice([to_png, to_npy])(array)

    def base64(self) -> str:
        """A good picture as text."""
        return base64.b64encode(self.picture(1)).decode()

    def trapped(self) -> object:
        """Something that shows when it has been unpickled."""
        return _Trap(str(self._trap))

    @property
    def trap_sprung(self) -> bool:
        """Whether somebody has unpickled what was sent."""
        return self._trap.exists()


def post(
    kind: str,
    body: bytes,
    allowed: frozenset[str],
    *,
    path: str = "/v1/score",
    head: str = "",
    length: int | str | None = None,
    rows: Sequence[int] | None = None,
    hang_up: bool = False,
) -> Case:
    """A POST with these bytes; `length` is what it declares, `head` are further lines."""
    declared = len(body) if length is None else length
    data = request_head(path, kind, f"{head}Content-Length: {declared}\r\n") + body
    return Case(data, allowed, None if rows is None else tuple(rows), hang_up)


def request_head(path: str, kind: str, more: str) -> bytes:
    """Everything before the body."""
    content_type = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{content_type}{more}\r\n"
    return head.encode("latin-1")


def between(draw: Draw, picture: bytes, row: int = MISSING) -> Case:
    """A picture between two good ones, whose scores it must not touch."""
    serials = [draw.random.randrange(1 << 24) for _ in range(2)]
    images = (draw.picture(serials[0]), picture, draw.picture(serials[1]))
    prompts = (prompt_of(serials[0]), "the bad one", prompt_of(serials[1]))
    kind, body = encode_request(ScoreRequest(images, prompts))
    return post(kind, body, frozenset({"200"}), rows=(serials[0], row, serials[1]))


def to_json(value: object) -> bytes:
    """Text of a body."""
    return json.dumps(value).encode()
