"""Reading the body of a request: within its limits, in place, and not for ever."""

from __future__ import annotations

import asyncio

from fastapi import Request

from reward_plugin.errors import ProtocolError, TooLarge
from reward_plugin.multipart import PartReader
from reward_plugin.server.failures import RequestFailed
from reward_plugin.server.limits import MAX_JSON, Budget, Limits
from reward_plugin.wire import ScoreRequest, decode_json, decode_parts, media_type


async def read_request(request: Request, limits: Limits, budget: Budget) -> ScoreRequest:
    """A score request in either form; its pictures are views into the body.

    Raises:
        RequestFailed: 400, 408 or 413, as soon as that much is known.
        Full: there is no room for its bytes.
    """
    content_type = request.headers.get("content-type", "")
    kind = media_type(content_type)
    try:
        if kind == "application/json":
            body = await read_bytes(request, limits, budget, most=MAX_JSON)
            batch = await asyncio.to_thread(decode_json, body)
        elif kind == "multipart/form-data":
            reader = PartReader(content_type, limits.max_items + 2)  # one too many is counted
            body = await read_bytes(request, limits, budget, reader)
            batch = decode_parts(reader.parts(body))
        else:
            raise ProtocolError(f"content type {kind[:80]!r}; send multipart/form-data or application/json")
        if len(batch.images) > limits.max_items:
            raise TooLarge(f"{len(batch.images)} images; this server takes {limits.max_items} at once")
    except TooLarge as error:
        raise RequestFailed(413, "too_large", str(error)) from None
    except ProtocolError as error:
        raise RequestFailed(400, "malformed", str(error)) from None
    return batch


async def read_bytes(
    request: Request,
    limits: Limits,
    budget: Budget,
    reader: PartReader | None = None,
    most: int | None = None,
) -> bytearray:
    """The body. Its bytes count against the budget until the exchange ends (see `reward_plugin.server.edge`).

    A body that declares its length is refused before any of it is read.

    Args:
        request: with its body unread.
        limits: of size and time.
        budget: for all bodies together.
        reader: looks at the bytes while they arrive.
        most: bytes that are taken, where that is less than the limit.

    Raises:
        RequestFailed: 408, it took too long.
        TooLarge: it has too many bytes, or the reader says so.
        ProtocolError: it is compressed, or the reader says so.
        Full: there is no room for it.
    """
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise ProtocolError(f"content encoding {coding[:80]!r}; send the body as it is")
    most = min(limits.max_bytes, most or limits.max_bytes)
    declared = int(request.headers.get("content-length") or 0)
    if declared > most:
        raise TooLarge(f"{declared} bytes; this server takes {most}: send fewer images at once")
    _hold(request, budget, declared)
    body, end = bytearray(declared), 0
    try:
        async with asyncio.timeout(limits.read_timeout):
            async for chunk in request.stream():
                start, end = end, end + len(chunk)
                if end > most:
                    raise TooLarge(f"more than {most} bytes: send fewer images at once")
                if end > len(body):  # its length was not declared
                    _hold(request, budget, end - len(body))
                    body += bytes(end - len(body))
                body[start:end] = chunk
                if reader is not None:
                    reader.feed(body, end)
    except TimeoutError:
        message = f"the request had not arrived after {limits.read_timeout:g} s; {end} bytes of it had"
        raise RequestFailed(408, "timeout", message) from None
    return body


def _hold(request: Request, budget: Budget, size: int) -> None:
    budget.take(size)
    request.state.held_bytes = getattr(request.state, "held_bytes", 0) + size
