"""What reward servers say of themselves, and whether they still are what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_plugin.call import Call
from reward_plugin.connection import Connection
from reward_plugin.errors import ConfigError, ProtocolError

#: What a server allows in a request if it does not say: pictures and bytes.
MAX_ITEMS, MAX_BYTES = 32, 64 << 20


@dataclass(frozen=True)
class Description:
    """Attributes:
    answer: All of /v1/scorers.
    dimensions: Columns of the tables.
    scored_by: Whatever decides the scores, as far as the server tells.
    max_items: Pictures in one request.
    max_bytes: Bytes of pictures in one request.
    """

    answer: Mapping[str, Any]
    dimensions: tuple[str, ...]
    scored_by: bytes
    max_items: int
    max_bytes: int

    def differs(self, answer: Mapping[str, Any]) -> str | None:
        """In what a server that gave this answer, whether scores or a description, is another one; or None.

        Scores of another model must not be mixed with those that were given before.
        """
        for key in ("dimensions", "scored_by"):
            now, before = answer.get(key), self.answer.get(key)
            if key in answer and now != before:
                return (
                    f"its scores are by {str(now)[:200]}, and this client began with {before}; serve the "
                    "same scorers, with the same options, at every address and until the end, or begin anew"
                )
        return None


class About:
    """The description of servers that must all be alike, for as long as the client lives."""

    def __init__(self, connection: Connection) -> None:
        """Ask nothing yet."""
        self._connection = connection
        self._known: Description | None = None

    def now(self, call: Call | None = None) -> Description:
        """What is known, or what any of the servers answers.

        Raises:
            ProtocolError: it is another service.
            ServerError: as `Connection.send`.
        """
        if self._known is None:
            self._known = read(self._connection.send("GET", "/v1/scorers", call=call))
        return self._known

    def compare(self) -> None:
        """Ask every server.

        Raises:
            ConfigError: they score differently, or not as they did.
        """
        answers = self._connection.ask_each("/v1/scorers")
        known = self._known or read(answers[self._connection.urls[0]])
        for url, answer in answers.items():
            if (trouble := known.differs(read(answer).answer)) is not None:
                raise ConfigError(f"url {url}: {trouble}")
        self._known = known


def read(answer: Mapping[str, Any]) -> Description:
    """The parts of a description that matter to a client.

    Raises:
        ProtocolError: it is none of a reward server.
    """
    try:
        names, limits = answer["dimensions"], answer.get("limits") or {}
        if not isinstance(names, list):
            raise TypeError("dimensions is no list")
        dimensions = tuple(map(str, names))
        return Description(
            answer=answer,
            dimensions=dimensions,
            scored_by=repr((answer.get("scored_by"), dimensions)).encode(),
            max_items=max(1, int(limits.get("max_items", MAX_ITEMS))),
            max_bytes=int(limits.get("max_bytes", MAX_BYTES))
            * 9
            // 10,  # the rest is for prompts and headers
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ProtocolError(f"what answers at /v1/scorers is no reward server's ({reason})") from None
