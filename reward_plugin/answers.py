"""What a server's answers mean: a result, no, not now, or nothing that this client understands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from reward_plugin.errors import ProtocolError, RequestRefused, ScorerFailed, TooLarge

#: Worth another attempt: a proxy without its server, and a server over its queue limit.
RETRIED = frozenset({429, 502, 503, 504})
#: Answers over this many bytes are not read; the scores of thousands of pictures have fewer.
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Answer:
    """A whole response.

    Attributes:
        url: The server that gave it.
        status: HTTP's.
        headers: HTTP's, whatever their case.
        content: The body.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_busy(self) -> bool:
        """The server is there, but over its limit of requests."""
        return self.status in (429, 503)

    @property
    def text(self) -> str:
        """How the body begins, for messages."""
        return self.content[:200].decode(errors="replace")

    @property
    def message(self) -> str:
        """What the server says went wrong, with the name under which its log has more."""
        try:
            error = json.loads(self.content)["error"]
            name = error.get("request_id")
            return f"{error['message']} (request {name})" if name else str(error["message"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self.text

    @property
    def retry_after(self) -> float:
        """Seconds that the server asks to be left alone, given as a number or, by some proxies, as a date;
        0 where it does not ask, or not in words of HTTP's.
        """
        text = self.headers.get("retry-after", "")
        try:
            seconds = float(text)
            return seconds if 0 <= seconds < math.inf else 0.0
        except ValueError:
            pass
        try:
            when = parsedate_to_datetime(text)
            return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
        except (ValueError, OverflowError):
            return 0.0

    def result(self) -> dict[str, Any]:
        """The JSON object of a good answer.

        Raises:
            ProtocolError: it is none; another service may have the port.
            TooLarge: the request is over a limit of the server, or of a proxy before it.
            RequestRefused: no, and another attempt would not change that.
            ScorerFailed: the model failed.
        """
        if self.status == 200:
            try:
                value = json.loads(self.content)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise ProtocolError(f"{self.url} answered {self.text[:80]!r}, which is no JSON object")
            return value
        said = f"reward server {self.url}: HTTP {self.status}: {self.message}"
        if self.status == 413:
            raise TooLarge(said)
        raise (ScorerFailed if self.status >= 500 else RequestRefused)(said)
