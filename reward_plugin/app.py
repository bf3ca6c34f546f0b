"""The HTTP face of a set of scorers: a FastAPI application, tested without a socket.

    GET  /health        the process is alive; answers while it scores
    GET  /ready         200 once a first score has been made, 503 before, and while nothing can be scored
    GET  /v1/scorers    names, dimensions, ranges, models and limits
    POST /v1/score      see `reward_plugin.wire`
    POST /compute       Flow-Factory's own format, see `reward_plugin.adapters.flow_factory`
    GET  /metrics       Prometheus' text format
    GET  /docs          how to use it, for people; /openapi.json for programs

Whole-request failures: 400 malformed, 401 token, 404 unknown scorer or dimension, 408 too slow, 413 too
large, 500 a scorer failed, 503 the queue is full (with Retry-After). A picture that cannot be read is not one
of them: its row is null and its error says why. Every answer has an X-Request-ID, which is in the log, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reward_plugin.adapters import flow_factory
from reward_plugin.errors import RewardError, TooLarge
from reward_plugin.images import Exif
from reward_plugin.local_engine import LocalEngine
from reward_plugin.queueing import Engine, Full, ScoreJob
from reward_plugin.scoring import columns
from reward_plugin.server.body import read_bytes, read_request
from reward_plugin.server.choice import choose
from reward_plugin.server.edge import Edge, failure
from reward_plugin.server.failures import RequestFailed, public, request_id
from reward_plugin.server.limits import Budget, Limits
from reward_plugin.server.metrics import Metrics
from reward_plugin.server.openapi import SCORE, page, schema
from reward_plugin.server.readiness import Readiness
from reward_plugin.types import Scorer, ScoreTable
from reward_plugin.wire import VERSION, encode_response

__all__ = ["Limits", "RequestFailed", "build_app"]

log = logging.getLogger(__name__)


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
        token: where given, all but /health, /ready, /docs and /openapi.json ask for
            `Authorization: Bearer TOKEN`.
        limits: see `Limits`.
        exif: whether encoded pictures are turned as their orientation tag says.
        scored_by: what decides the scores, for clients that keep it with them; see
            `reward_plugin.score.identity`.
    """
    limits = limits or Limits()
    service = Service(engine or LocalEngine(scorers, limits.max_waiting), limits, exif)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(service.readiness.watch())
        yield
        watch.cancel()
        await asyncio.to_thread(service.engine.close)

    app = FastAPI(
        title="Perceptual rewards", version=str(VERSION), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(
        Edge, metrics=service.metrics, budget=service.budget, token=token, max_bytes=limits.max_bytes
    )
    for kind in (RequestFailed, Full, RewardError, HTTPException):
        app.add_exception_handler(kind, service.failed)
    _add_about(app, service, scored_by)
    _add_scoring(app, service, scored_by)
    app.openapi = lambda: schema(app, token is not None)  # type: ignore[method-assign]
    return app


def _add_scoring(app: FastAPI, service: Service, scored_by: str | None) -> None:
    """The routes that take pictures."""
    limits = service.limits

    @app.post("/v1/score", openapi_extra=SCORE, response_class=JSONResponse)
    async def score(request: Request) -> Response:
        """Score a batch of pictures."""
        service.engine.check_room()
        batch = await read_request(request, limits, service.budget)
        names, dimensions = choose(service.engine.describe(), batch.scorers, batch.dimensions)
        start = time.monotonic()
        table = await service.score(batch.images, batch.prompts, names, request)
        seconds = time.monotonic() - start
        log.debug("request %s %r: %d images, %.3f s", request_id.get(), batch.id, len(table), seconds)
        answer = columns(table, dimensions)
        return JSONResponse(encode_response(answer, batch.id, batch.ids, scored_by))

    async def read(request: Request) -> bytes:
        service.engine.check_room()
        return bytes(await read_bytes(request, limits, service.budget))

    owners = {name: info.name for info in service.engine.describe() for name in info.dimensions}
    app.include_router(flow_factory.router(service.score, owners, read=read, max_items=limits.max_items))


def _add_about(app: FastAPI, service: Service, scored_by: str | None) -> None:
    """The routes by which a server tells of itself."""
    limits, infos = service.limits, service.engine.describe()

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the process is alive; answers while it scores."""
        return {"status": "alive", "requests": service.engine.jobs}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether scores can be made: 200 or 503, with the reason."""
        reason = service.readiness.reason
        return JSONResponse({"ready": reason is None, "reason": reason}, 503 if reason else 200)

    @app.get("/v1/scorers")
    async def scorers() -> dict[str, Any]:
        """The scorers, their dimensions, ranges and models, and what one request may ask for."""
        return {
            "version": VERSION,
            "dimensions": [name for info in infos for name in info.dimensions],
            "scorers": [{**vars(info), "ranges": dict(info.ranges)} for info in infos],
            "limits": {"max_items": limits.max_items, "max_bytes": limits.max_bytes},
            "scored_by": scored_by,
        }

    for path, route in (("/health", health), ("/ready", ready)):  # some load balancers ask like this
        app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """How to use the server, on one page that loads nothing from elsewhere."""
        return HTMLResponse(page(app.openapi()))


class Service:
    """What the routes share: an engine with its limits, counters and readiness."""

    def __init__(self, engine: Engine, limits: Limits, exif: Exif) -> None:
        """Take an engine and have it report to the counters."""
        self.engine, self.limits, self.exif = engine, limits, exif
        self.budget = Budget(limits.max_memory)
        self.readiness = Readiness(engine)
        self.metrics = Metrics(
            jobs=lambda: engine.jobs,
            held_bytes=lambda: self.budget.used,
            is_ready=lambda: self.readiness.reason is None,
        )
        engine.observe = self.metrics.observe

    async def score(
        self,
        images: Sequence[bytes | memoryview],
        prompts: Sequence[str] | None,
        scorers: Sequence[str] | None = None,
        request: Request | None = None,
    ) -> ScoreTable:
        """Scores of pictures by some scorers, or all; given up when the client of `request` hangs up."""
        names = tuple(info.name for info in self.engine.describe()) if scorers is None else tuple(scorers)
        job = ScoreJob(images, prompts, names, self.limits.max_pixels, self.exif, request_id.get())
        if request is None:
            table = await self.engine.run(job)
        else:
            table = await _while_connected(request, self.engine.run(job))
        errors = tuple(error and public(error, job.id) for error in table.errors)
        for error, said in zip(table.errors, errors, strict=True):
            if error != said:
                log.error("request %s: %s", job.id, error)
        self.metrics.count_images(len(errors), sum(error is not None for error in errors))
        return ScoreTable(table.dimensions, table.values, errors)

    async def failed(self, request: Request, error: Exception) -> JSONResponse:
        """The answer to an exception that a route raised."""
        return failure(_as_failure(error), self.metrics)


def _as_failure(error: Exception) -> RequestFailed:
    if isinstance(error, RequestFailed):
        return error
    if isinstance(error, Full):
        return RequestFailed(503, "busy", str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, TooLarge):
        return RequestFailed(413, "too_large", str(error))
    if isinstance(error, HTTPException):
        return RequestFailed(error.status_code, "http", str(error.detail), dict(error.headers or {}))
    log.error("request %s: %s", request_id.get(), error, exc_info=error)
    return RequestFailed(500, "scorer_failed", public(str(error), request_id.get()))


async def _while_connected(request: Request, work: Any) -> ScoreTable:
    """The result of scoring, which is cancelled when the client hangs up, or the server stops."""
    scoring = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({scoring, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if scoring.done():
            return await scoring
        scoring.cancel()
        await asyncio.wait({scoring})  # until then its pictures take memory
        raise ClientDisconnect
    finally:
        hung_up.cancel()
        scoring.cancel()


async def _hung_up(request: Request) -> None:
    """Come back when the client has gone; its whole request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
