"""What travels between client and server. Version 1; no pickle, and no address for the server to fetch from.

Request `POST /v1/score`, either of

* `multipart/form-data`: a part `request` with JSON, and one part `images` per picture, in order: a PNG, JPEG
  or WebP file, or a .npy file of a uint8 [H, W, 3] array. The bytes tell which it is, not the part's content
  type. Every key of the JSON may be left out:
  `{"version": 1, "prompts": [...], "scorers": [...], "dimensions": [...], "ids": [...], "id": "..."}`;
* `application/json`: the same JSON with `"images": [base64, ...]`, each an encoded picture or a .npy file.

Response: one row and one error per picture; null is a missing score:

    {"version": 1, "id": ..., "dimensions": [...], "values": [[number | null, ...], ...],
     "errors": [text | null, ...], "ids": [...] | null, "scored_by": text | null}

`scored_by` stands for all that decides the scores (see `reward_plugin.score.identity`): a client that began
with another one does not mix the two.

A request that fails as a whole gets `{"error": {"code": ..., "message": ..., "request_id": ...}}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reward_plugin.errors import ProtocolError, TooLarge
from reward_plugin.images import NPY_MAGIC
from reward_plugin.multipart import Part, join, split
from reward_plugin.types import ScoreTable

VERSION = 1
NPY = "application/x-npy"
#: Keys of a request's JSON.
KEYS = ("version", "images", "prompts", "scorers", "dimensions", "ids", "id")
#: Bytes of the JSON part of a multipart request.
MAX_HEAD = 1 << 20
#: Characters of a request's id.
MAX_ID = 200
#: Commas and brackets of one JSON text: what it may grow to in memory is bounded with them.
MAX_VALUES = 200_000


@dataclass(frozen=True)
class ScoreRequest:
    """One batch to score.

    Attributes:
        images: N pictures, each as encoded by the sender: an image file or a .npy file. A decoded request
            holds views into its body.
        prompts: N texts, or None.
        scorers: names of the scorers to run; None runs all.
        id: the caller's name for this request; it comes back in the response and appears in logs.
        dimensions: columns of the answer, in order, of those that the scorers give; None gives all. Scorers
            that are not needed for them do not run.
        ids: N names for the pictures, or None; they come back in the response.
    """

    images: tuple[bytes | memoryview, ...]
    prompts: tuple[str, ...] | None = None
    scorers: tuple[str, ...] | None = None
    id: str = ""
    dimensions: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None


def encode_request(request: ScoreRequest) -> tuple[str, bytes]:
    """A request as (content type, multipart body)."""
    head = {name: getattr(request, name) for name in ("prompts", "scorers", "id", "dimensions", "ids")}
    head = {"version": VERSION} | {key: value for key, value in head.items() if value not in (None, "")}
    parts = [Part("request", "application/json", json.dumps(head).encode())]
    for i, image in enumerate(request.images):
        kind = NPY if image[: len(NPY_MAGIC)] == NPY_MAGIC else "application/octet-stream"
        parts.append(Part("images", kind, image, filename=str(i)))
    return join(parts)


def decode_request(content_type: str, body: bytes | bytearray) -> ScoreRequest:
    """Either form of a request.

    Raises:
        ProtocolError: the body breaks a rule of the format; the message says which.
    """
    kind = media_type(content_type)
    if kind == "application/json":
        return decode_json(body)
    if kind == "multipart/form-data":
        return decode_parts(split(content_type, body))
    raise ProtocolError(f"content type {kind}; send multipart/form-data or application/json")


def media_type(content_type: str) -> str:
    """A content type without its options."""
    return content_type.partition(";")[0].strip().lower()


def decode_json(body: bytes | bytearray) -> ScoreRequest:
    """A request whose pictures are base64 texts; raises `ProtocolError` as `decode_request` does."""
    head = json_object(body)
    encoded = _list_of_text(head, "images")
    if encoded is None:
        raise ProtocolError("images is missing; it must be a list of base64 texts")
    return _request(head, tuple(_base64(i, text) for i, text in enumerate(encoded)))


def decode_parts(parts: Sequence[Part]) -> ScoreRequest:
    """A request of multipart parts; raises `ProtocolError` as `decode_request` does."""
    heads = [part.content for part in parts if part.name == "request"]
    if len(heads) != 1:
        raise ProtocolError(f"{len(heads)} parts named request; there must be one, with the JSON")
    if len(heads[0]) > MAX_HEAD:
        raise TooLarge(f"the part request has {len(heads[0])} bytes; {MAX_HEAD} are allowed")
    for part in parts:
        if part.name not in ("request", "images"):
            raise ProtocolError(f"a part named {part.name[:40]!r}; there are request and images")
    return _request(
        json_object(bytes(heads[0])), tuple(part.content for part in parts if part.name == "images")
    )


def encode_response(
    table: ScoreTable,
    request_id: str = "",
    ids: Sequence[str] | None = None,
    scored_by: str | None = None,
) -> dict[str, Any]:
    """A table as JSON-ready values; float32 survives the trip exactly."""
    return {
        "version": VERSION,
        "id": request_id,
        "dimensions": list(table.dimensions),
        "values": [[None if np.isnan(value) else float(value) for value in row] for row in table.values],
        "errors": list(table.errors),
        "ids": None if ids is None else list(ids),
        "scored_by": scored_by,
    }


def decode_response(message: Any) -> ScoreTable:
    """The table of a response.

    Raises:
        ProtocolError: not a response of this version.
    """
    try:
        if message["version"] != VERSION:
            raise ProtocolError(f"the server answers in version {message['version']!r}, not {VERSION}")
        dimensions = tuple(map(str, message["dimensions"]))
        rows = [[np.nan if value is None else float(value) for value in row] for row in message["values"]]
        values = np.array(rows, dtype=np.float32).reshape(-1, len(dimensions))
        return ScoreTable(dimensions, values, tuple(message["errors"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"not a score response: {type(error).__name__}: {error}") from None


def _request(head: Mapping[str, Any], images: tuple[bytes | memoryview, ...]) -> ScoreRequest:
    if head.get("version", VERSION) != VERSION:
        raise ProtocolError(f"version {str(head['version'])[:40]}; this server speaks version {VERSION}")
    for key in head:
        if key not in KEYS:
            raise ProtocolError(f"unknown key {key[:40]!r}; known are {', '.join(KEYS)}")
    name = head.get("id") or ""
    if not isinstance(name, str) or len(name) > MAX_ID:
        raise ProtocolError(f"id must be a text of at most {MAX_ID} characters")
    if not _is_unicode(name):
        raise ProtocolError("id has half a character (a lone surrogate)")
    for key in ("prompts", "ids"):
        values = _list_of_text(head, key)
        if values is not None and len(values) != len(images):
            raise ProtocolError(f"{len(values)} {key} for {len(images)} images; send one each, or none")
    return ScoreRequest(
        images,
        prompts=_list_of_text(head, "prompts"),
        scorers=_list_of_text(head, "scorers"),
        id=name,
        dimensions=_list_of_text(head, "dimensions"),
        ids=_list_of_text(head, "ids"),
    )


def json_object(data: bytes | bytearray) -> Mapping[str, Any]:
    """A JSON object of bounded size in memory; raises `ProtocolError`."""
    if sum(map(data.count, (b",", b"[", b"{", b":"))) > MAX_VALUES:
        raise ProtocolError(f"more than {MAX_VALUES} commas and brackets in the JSON")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"the JSON is a {type(value).__name__}; it must be an object")
    return value


def _list_of_text(head: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = head.get(key)
    if value is None:
        return None
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not all(isinstance(v, str) for v in value)
    ):
        raise ProtocolError(f"{key} must be a list of texts")
    if not all(map(_is_unicode, value)):
        raise ProtocolError(f"{key} has a text with half a character (a lone surrogate)")
    return tuple(value)


def _is_unicode(text: str) -> bool:
    """Whether a text from JSON, which allows lone surrogates, can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(index: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(f"images[{index}] is not base64") from None
