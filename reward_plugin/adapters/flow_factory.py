"""Flow-Factory's HTTP format on our server: what its `RemotePointwiseRewardModel` sends and reads.

    POST /compute   {"prompt": [text, ...], "image": [base64, ...], "video": null, ...}
                    -> {"rewards": [number, ...]}, or {"error": text}

That trainer asks for one number a picture and cannot say how dimensions are weighed, so the address says it:
with `server_url: http://HOST:8100/weights/iaa=0.34,iqa=0.33,ista=0.33` it posts to `/weights/…/compute`, and
`/weights/iaa` stands for one dimension as it is. `/compute` alone serves a server with a single dimension.

It has no missing score, and it shows its user the text of an `error` only from a response with status 200;
any other status is tried three times and then reported without the text. So what asking again would not help,
above all a picture without a score, is answered with status 200 and `error`, and never with `rewards`.

Pickles, which the services of other trainers take at `/`, are refused.
"""

# No `from __future__ import annotations` here: FastAPI reads the annotations of what `router` defines.

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reward_plugin.adapters.common import insist, settle_weights
from reward_plugin.combine import combine
from reward_plugin.errors import ConfigError, MissingScore, ProtocolError, TooLarge
from reward_plugin.types import ScoreTable
from reward_plugin.wire import json_object

if TYPE_CHECKING:
    from fastapi import APIRouter, Request
    from fastapi.responses import JSONResponse

#: How the paths of these routes end, /health apart.
PATHS = ("/compute", "/health")
#: (encoded pictures, prompts or None, names of the scorers to run or None for all) -> their scores.
Score = Callable[[Sequence[bytes], Sequence[str] | None, Sequence[str] | None], Awaitable[ScoreTable]]
#: The bytes of a request, read within some limits; it raises `TooLarge` past them.
Read = Callable[["Request"], Awaitable[bytes]]

NO_PICKLE = (
    "this server reads no pickles, because reading one runs whatever code its sender chose; send JSON to "
    "/compute or /v1/score, or use reward_plugin.adapters, which has the forms of verl-omni and flow_grpo"
)


#: Largest weight in an address; a reward beyond float32 would not be a number any more.
MAX_WEIGHT = 1e9


@dataclass(frozen=True)
class Batch:
    """N encoded pictures and, where there are some, N prompts."""

    images: tuple[bytes, ...]
    prompts: tuple[str, ...] | None


def router(
    score: Score,
    owners: Mapping[str, str] | None = None,
    *,
    read: Read | None = None,
    max_bytes: int = 256 * 1024 * 1024,
    max_items: int = 256,
) -> "APIRouter":
    """The routes, for `app.include_router`.

    Args:
        score: scores encoded pictures; what it raises beside `ProtocolError` is the application's to answer.
        owners: dimension -> name of the scorer that gives it; where given, only the scorers that the weights
            name are run, and a wrong name is known before anything is scored.
        read: the application's own reader of bodies, which keeps its limits of size and time.
        max_bytes: of a request's body, without `read`.
        max_items: pictures in one request.
    """
    from fastapi import APIRouter, Request
    from fastapi.responses import JSONResponse

    compute = _Compute(score, owners, read or _reader(max_bytes), max_items)
    routes = APIRouter(tags=["Flow-Factory"])

    @routes.post("/compute")
    async def compute_single(request: Request) -> JSONResponse:
        """The score of each picture, on a server with a single dimension."""
        return await compute.answer(request, None)

    @routes.post("/weights/{weights}/compute")
    async def compute_weighted(request: Request, weights: str) -> JSONResponse:
        """The weighted sum of each picture's scores, as in `/weights/iaa=0.5,iqa=0.5/compute`."""
        return await compute.answer(request, weights)

    @routes.get("/weights/{weights}/health")
    async def health(weights: str) -> JSONResponse:
        """Whether these weights can be served; that trainer asks before it starts."""
        try:
            read_weights(weights, owners)
        except ConfigError as error:
            return _failure(404, "unknown_weights", str(error))
        return JSONResponse({"status": "ok"})

    @routes.post("/")
    async def refuse_pickle() -> JSONResponse:
        """Other trainers' reward clients post pickles here; this says why not, and what to use."""
        return _failure(415, "pickle", NO_PICKLE)

    return routes


def as_bearer(authorization: str) -> str:
    """The header of that trainer's client, which can only send a password (HTTP's Basic, out of ~/.netrc), as
    if the password had been sent as token; any other header as it is.
    """
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        return "Bearer " + base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


@dataclass(frozen=True)
class _Compute:
    """Answers requests for rewards; the attributes are the arguments of `router`."""

    score: Score
    owners: Mapping[str, str] | None
    read: Read
    max_items: int

    async def answer(self, request: "Request", address: str | None) -> "JSONResponse":
        """The rewards of a request, weighed as its address says, or why there are none."""
        from fastapi.responses import JSONResponse

        try:
            body = await self.read(request)
            if _is_pickle(body):
                return _failure(415, "pickle", NO_PICKLE)
            batch = await asyncio.to_thread(decode, body, self.max_items)
        except TooLarge as error:
            return _failure(413, "too_large", str(error))
        except ProtocolError as error:
            return _failure(400, "malformed", str(error))
        try:
            weights = read_weights(address, self.owners)
            table = await self.score(batch.images, batch.prompts, _scorers(weights, self.owners))
            combined = insist(combine(table, settle_weights(weights, table.dimensions)), table)
        except (ConfigError, MissingScore) as error:
            return JSONResponse({"error": str(error)})
        return JSONResponse({"rewards": combined.reward.tolist()})


def _failure(status: int, code: str, message: str) -> "JSONResponse":
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"code": code, "message": message}}, status)


def read_weights(address: str | None, owners: Mapping[str, str] | None) -> dict[str, float] | None:
    """`iaa=0.34,iqa=0.33` as weights; a bare name has weight 1; None for a server with a single dimension.

    Raises:
        ConfigError: not of this form, or (where `owners` are given) a name that no scorer gives.
    """
    known = None if owners is None else list(owners)
    if address is None:
        return None if known is None else settle_weights(None, known)
    weights: dict[str, float] = {}
    for part in address.split(","):
        name, equals, number = part.partition("=")
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            raise ConfigError(
                f"weights {address!r}: {number!r} is not a number; write iaa=0.5,iqa=0.5"
            ) from None
        if not name or name in weights or not abs(weight) <= MAX_WEIGHT:
            raise ConfigError(
                f"weights {address!r}: each dimension once, with a number, as in iaa=0.5,iqa=0.5"
            )
        weights[name] = weight
    if known is None:
        return weights
    return {name: weight for name, weight in settle_weights(weights, known).items() if weight}


def decode(body: bytes, max_items: int) -> Batch:
    """The pictures and prompts of a request.

    Raises:
        ProtocolError: not JSON of the form above; videos and condition images are not scored.
        TooLarge: more than `max_items` pictures.
    """
    message = json_object(body)
    if message.get("video") or message.get("condition_videos"):
        raise ProtocolError("video: this server scores pictures; leave videos out of required_fields")
    images, prompts = _texts(message, "image"), _texts(message, "prompt")
    if not images:
        raise ProtocolError("image is missing; it must be a list of base64 texts, one a picture")
    if len(images) > max_items:
        raise TooLarge(f"{len(images)} images; this server takes {max_items} at once: lower batch_size")
    if prompts is not None and len(prompts) != len(images):
        raise ProtocolError(f"{len(prompts)} prompts for {len(images)} images; send one each, or none")
    try:
        pictures = tuple(base64.b64decode(text, validate=True) for text in images)
    except (binascii.Error, ValueError):
        raise ProtocolError("image holds a text that is not base64") from None
    return Batch(pictures, prompts)


def _texts(message: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProtocolError(f"{key} must be a list of texts")
    try:
        "".join(value).encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"{key} holds half of a surrogate pair, which is no text") from None
    return tuple(value)


def _scorers(weights: Mapping[str, float] | None, owners: Mapping[str, str] | None) -> tuple[str, ...] | None:
    """Names of the scorers that the weights need; None for all."""
    if weights is None or owners is None:
        return None
    return tuple(dict.fromkeys(owner for name, owner in owners.items() if weights.get(name)))


def _reader(max_bytes: int) -> Read:
    async def read(request: "Request") -> bytes:
        """All of the body, never holding more than is allowed."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes: lower batch_size")
        return bytes(body)

    return read


def _is_pickle(body: bytes) -> bool:
    """Whether the body starts like a pickle of any protocol that Python 3 writes by itself."""
    return body[:1] == b"\x80" and len(body) > 1 and body[1] in range(2, 6)
