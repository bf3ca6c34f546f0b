"""Answers other than 200, and what may be said in them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

#: The id of the request that is being answered.
request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestFailed(Exception):
    """A response other than 200."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


def error_body(code: str, message: str) -> dict[str, Any]:
    """The JSON of a failed request."""
    return {"error": {"code": code, "message": message, "request_id": request_id.get()}}


def public(text: str, request: str) -> str:
    """What a client may read of an error that came out of a scorer; the log has it under a request's id.

    A text that could name a path of this machine (it has a slash in it), or an address in its memory, stays
    in the log; of it goes out what failed and the kind of exception, where that much is harmless.
    """
    if not _is_private(text):
        return text
    start = ": ".join(text.split(": ")[:2])
    found = f"the server's log has the reason under request {request}"
    return found if _is_private(start) or start == text or len(start) > 120 else f"{start}; {found}"


def _is_private(text: str) -> bool:
    return "/" in text or "\\" in text or " at 0x" in text
