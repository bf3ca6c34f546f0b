"""The HTTP face of a set of scorers: a FastAPI application, tested without a socket.

    GET  /health      the process is alive; answers while it scores
    GET  /ready       200 once a first score has been made, 503 before
    GET  /v1/scorers  names, dimensions, ranges and limits
    POST /v1/score    see `reward_plugin.wire`

Whole-request failures: 400 malformed, 401 token, 404 unknown scorer, 413 too large, 500 a scorer failed, 503
the queue is full (with Retry-After). A picture that cannot be read is not one of them: its row is null and
its error says why.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import PIL.Image
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from reward_plugin.errors import ProtocolError, RewardError, TooLarge
from reward_plugin.images import MAX_PIXELS, Exif, to_png
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import Engine, Full, ScoreJob
from reward_plugin.types import Scorer
from reward_plugin.wire import VERSION, ScoreRequest, decode_request, encode_response

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one request, and all waiting ones together, may ask for.

    Attributes:
        max_items: Pictures in one request.
        max_bytes: Bytes of one request body.
        max_pixels: Width times height of one picture.
        max_waiting: Requests that wait while one is scored; the next one gets 503.
    """

    max_items: int = 256
    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    max_waiting: int = 32


class RequestFailed(Exception):
    """A response other than 200."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


def build_app(
    scorers: Sequence[Scorer] = (),
    *,
    engine: Engine | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    exif: Exif = "ignore",
    scored_by: str | None = None,
) -> FastAPI:
    """An application that serves loaded scorers.

    Args:
        scorers: with different dimensions, scored in threads of this process.
        engine: what scores instead of a `LocalEngine` of `scorers`; closed with the application.
        token: where given, `/v1` asks for `Authorization: Bearer TOKEN`.
        limits: see `Limits`.
        exif: whether encoded pictures are turned as their orientation tag says.
        scored_by: what decides the scores, for clients that keep it with them; see
            `reward_plugin.score.identity`.
    """
    limits = limits or Limits()
    engine = LocalEngine(scorers, limits.max_waiting) if engine is None else engine
    scorer_infos = engine.describe()
    readiness = _Readiness()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warm_up = asyncio.create_task(readiness.warm_up(engine))
        yield
        warm_up.cancel()
        engine.close()

    app = FastAPI(title="Perceptual rewards", version=str(VERSION), lifespan=lifespan)
    app.add_exception_handler(RequestFailed, _failure)

    def authorize(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise RequestFailed(
                401,
                "token",
                "wrong or no token; send Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "alive", "requests": engine.jobs}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": readiness.ok, "reason": readiness.reason}, 200 if readiness.ok else 503)

    @app.get("/v1/scorers", dependencies=[Depends(authorize)])
    async def list_scorers() -> dict[str, Any]:
        return {
            "version": VERSION,
            "dimensions": [name for info in scorer_infos for name in info.dimensions],
            "scorers": [
                {"name": s.name, "dimensions": s.dimensions, "ranges": dict(s.ranges)} for s in scorer_infos
            ],
            "limits": {"max_items": limits.max_items, "max_bytes": limits.max_bytes},
            "scored_by": scored_by,
        }

    @app.post("/v1/score", dependencies=[Depends(authorize)])
    async def score(request: Request) -> dict[str, Any]:
        batch = await _read(request, limits)
        chosen = _choose([info.name for info in scorer_infos], batch)
        job = ScoreJob(batch.images, batch.prompts, chosen, limits.max_pixels, exif, batch.id)
        start = time.monotonic()
        try:
            table = await engine.run(job)
        except Full as full:
            raise RequestFailed(503, "busy", str(full), {"Retry-After": str(full.retry_after)}) from None
        except RewardError as error:
            log.exception("request %s: %d images", batch.id or "-", len(batch.images))
            raise RequestFailed(500, "scorer_failed", str(error)) from error
        log.debug("request %s: %d images, %.3f s", batch.id or "-", len(table), time.monotonic() - start)
        return encode_response(table, batch.id)

    return app


class _Readiness:
    """Whether a first score has been made, and if not, why."""

    def __init__(self) -> None:
        self.ok = False
        self.reason: str | None = "warming up"

    async def warm_up(self, engine: Engine) -> None:
        """Score one grey picture: the first pass allocates memory and picks kernels."""
        picture = to_png(PIL.Image.new("RGB", (64, 64), (128, 128, 128)))
        try:
            scorers = tuple(info.name for info in engine.describe())
            table = await engine.run(ScoreJob((picture,), ("a grey square",), scorers))
        except Exception as error:
            log.exception("warm-up")
            self.reason = f"the warm-up score failed: {error}"
        else:
            self.reason = table.errors[0]
            self.ok = self.reason is None


async def _read(request: Request, limits: Limits) -> ScoreRequest:
    """The request's body, never holding more of it than is allowed."""
    body = bytearray()
    try:
        declared = int(request.headers.get("content-length") or 0)
        if declared > limits.max_bytes:
            raise TooLarge(
                f"{declared} bytes; this server takes {limits.max_bytes}: send fewer images at once"
            )
        async for chunk in request.stream():
            body += chunk
            if len(body) > limits.max_bytes:
                raise TooLarge(f"more than {limits.max_bytes} bytes: send fewer images at once")
        batch = decode_request(request.headers.get("content-type", ""), bytes(body))
        if len(batch.images) > limits.max_items:
            raise TooLarge(f"{len(batch.images)} images; this server takes {limits.max_items} at once")
    except TooLarge as error:
        raise RequestFailed(413, "too_large", str(error)) from None
    except ProtocolError as error:
        raise RequestFailed(400, "malformed", str(error)) from None
    return batch


def _choose(known: Sequence[str], batch: ScoreRequest) -> tuple[str, ...]:
    """Names of the scorers that a request asks for."""
    if batch.scorers is None:
        return tuple(known)
    for name in batch.scorers:
        if name not in known:
            raise RequestFailed(
                404, "unknown_scorer", f"no scorer {name!r} here; there are {', '.join(known)}"
            )
    if not batch.scorers or len(set(batch.scorers)) != len(batch.scorers):
        raise RequestFailed(400, "malformed", "scorers must name at least one scorer, and each once")
    return batch.scorers


async def _failure(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestFailed)
    body = {"error": {"code": error.code, "message": str(error)}}
    return JSONResponse(body, error.status, error.headers)
