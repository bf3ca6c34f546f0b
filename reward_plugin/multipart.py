"""multipart/form-data with everything in memory; the only form of it that a batch of pictures needs.

A body is read where it lies: its parts are found while it arrives, and handed out as views, not copies.
Read after RFC 7578 and RFC 2046, strictly: no nested multiparts, no transfer encodings, nothing before the
first boundary; what follows the last one is not looked at.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from reward_plugin.errors import ProtocolError, TooLarge

#: Bytes of the header of one part.
MAX_HEADER = 4096
#: Bytes that are searched at a time, so that other threads get their turn while a large body is searched.
STEP = 1 << 22


@dataclass(frozen=True)
class Part:
    """One part of a body; `content_type` is written, and not looked at when read."""

    name: str
    content_type: str
    content: bytes | memoryview
    filename: str | None = None


def join(parts: Iterable[Part]) -> tuple[str, bytes]:
    """Parts as (content type, body)."""
    boundary = secrets.token_hex(16)  # 128 random bits do not occur in the pictures
    pieces: list[bytes | memoryview] = []
    for part in parts:
        pieces += [head(boundary, part.name, part.content_type, part.filename), part.content, b"\r\n"]
    return f"multipart/form-data; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])


def head(boundary: str, name: str, content_type: str, filename: str | None = None) -> bytes:
    """What comes before the content of a part, the boundary included."""
    names = f'name="{name}"' + (f'; filename="{filename}"' if filename else "")
    lines = (
        f"--{boundary}",
        f"Content-Disposition: form-data; {names}",
        f"Content-Type: {content_type}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def split(content_type: str, body: bytes | bytearray) -> list[Part]:
    """The parts of a body, in order; their contents are views into it.

    Raises:
        ProtocolError: no boundary, a damaged body, or one that ends early.
    """
    reader = PartReader(content_type)
    reader.feed(body, len(body))
    return reader.parts(body)


class PartReader:
    """Finds the parts of a body that is still arriving.

    The body grows in one buffer, which the caller owns: `feed` looks at what is new in it, and remembers only
    where the parts lie.
    """

    def __init__(self, content_type: str, max_parts: int | None = None) -> None:
        """Take the boundary from a content type.

        Raises:
            ProtocolError: it has none, or none that is allowed.
        """
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not 1 <= len(boundary) <= 70:
            raise ProtocolError(
                f"damaged multipart body: a boundary of {len(boundary)} characters, not 1 to 70"
            )
        self.max_parts = max_parts
        self.finished = False
        self._first = b"--" + boundary
        self._next = b"\r\n--" + boundary
        self._spans: list[tuple[str, str, int, int]] = []  # name, content type, start, end
        self._open: tuple[str, str, int] | None = None  # the part whose end is looked for
        self._at = -1  # right after the last boundary; -1 before the first one
        self._searched = 0

    def feed(self, body: bytes | bytearray, end: int) -> None:
        """Look at `body[:end]`, of which an earlier call has seen the beginning.

        Raises:
            ProtocolError: it is damaged.
            TooLarge: more than `max_parts` parts.
        """
        while not self.finished and self._step(body, end):
            pass

    def parts(self, body: bytes | bytearray) -> list[Part]:
        """The parts of a body that has arrived; the buffer must not be resized while they are in use.

        Raises:
            ProtocolError: it ends before its last boundary.
        """
        if not self.finished:
            raise ProtocolError("the multipart body ends before its last boundary")
        view = memoryview(body)
        return [Part(name, kind, view[start:end]) for name, kind, start, end in self._spans]

    def _step(self, body: bytes | bytearray, end: int) -> bool:
        """One boundary, header or content further; False where more must arrive first."""
        if self._at < 0:
            start = 2 if body[:2] == b"\r\n" else 0
            if body[start : min(end, start + len(self._first))] != self._first[: max(end - start, 0)]:
                raise ProtocolError("damaged multipart body: it does not begin with its boundary")
            if end < start + len(self._first):
                return False
            self._at = start + len(self._first)
        if self._open is None:
            return self._header(body, end)
        name, kind, start = self._open
        found = self._find(body, max(self._searched, start - 2), end)
        if found < 0:
            return False
        # the line break before a boundary belongs to it, even where it is also the one that ends the header
        self._spans.append((name, kind, start, max(found, start)))
        if self.max_parts is not None and len(self._spans) > self.max_parts:
            raise TooLarge(f"more than {self.max_parts} parts: send fewer images at once")
        self._open, self._at = None, found + len(self._next)
        return True

    def _find(self, body: bytes | bytearray, start: int, end: int) -> int:
        """Where the next boundary begins, or -1."""
        overlap = len(self._next) - 1
        while start < end:
            stop = min(end, start + STEP)
            if (found := body.find(self._next, start, stop)) >= 0:
                return found
            self._searched = max(start, stop - overlap)
            start = self._searched if stop < end else end
        return -1

    def _header(self, body: bytes | bytearray, end: int) -> bool:
        """What follows a boundary: the header of a part, or the two dashes of the last one."""
        after = bytes(body[self._at : min(end, self._at + 2)])
        if after == b"--":
            self.finished = True
            return False
        if len(after) < 2:
            return False
        if after != b"\r\n":
            raise ProtocolError(
                "damaged multipart body: a boundary is followed by neither -- nor a line break"
            )
        stop = body.find(b"\r\n\r\n", self._at, min(end, self._at + MAX_HEADER))
        if stop < 0:
            if end - self._at >= MAX_HEADER:
                raise ProtocolError(f"damaged multipart body: a part's header exceeds {MAX_HEADER} bytes")
            return False
        self._open = (*_parse_header(bytes(body[self._at + 2 : stop])), stop + 4)
        self._searched = 0
        return True


def _parse_header(header: bytes) -> tuple[str, str]:
    """Name and content type of a part."""
    fields = {}
    for line in header.split(b"\r\n"):
        field, colon, value = line.partition(b":")
        if not colon:
            raise ProtocolError("damaged multipart body: a header line without a colon")
        fields[field.strip().lower()] = value.strip()
    encoding = fields.get(b"content-transfer-encoding", b"binary").lower()
    if encoding not in (b"binary", b"8bit", b"7bit"):
        raise ProtocolError("a part with a content-transfer-encoding; send the bytes as they are")
    _, options = parse_options_header(fields.get(b"content-disposition"))
    name = options.get(b"name", b"").decode("utf-8", "replace")
    return name, fields.get(b"content-type", b"").decode("latin-1")
