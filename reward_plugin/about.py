"""What reward servers say of themselves, asked again when one of them has been away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_plugin.connection import Call, Connection
from reward_plugin.errors import ConfigError, ProtocolError

log = logging.getLogger(__name__)

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


class About:
    """The description of servers that must all be alike."""

    def __init__(self, connection: Connection) -> None:
        """Ask nothing yet."""
        self._connection = connection
        self._known: Description | None = None
        self._returns = 0

    def now(self, call: Call | None = None) -> Description:
        """What is known, or what any of the servers answers.

        Raises:
            ProtocolError: it is another service, or came back with other dimensions.
            ServerError: as `Connection.send`.
        """
        returns = self._connection.servers.returns
        if self._known is None or self._returns != returns:
            self._take(read(self._connection.send("GET", "/v1/scorers", call=call)))
            self._returns = returns
        assert self._known is not None
        return self._known

    def compare(self) -> None:
        """Ask every server.

        Raises:
            ConfigError: their dimensions differ.
        """
        returns = self._connection.servers.returns
        answers = {url: read(answer) for url, answer in self._connection.ask_each("/v1/scorers").items()}
        (first, known), *others = answers.items()
        for url, description in others:
            if description.dimensions != known.dimensions:
                raise ConfigError(
                    f"url: {first} scores {', '.join(known.dimensions)}, {url} scores "
                    f"{', '.join(description.dimensions)}; serve the same scorers at every address"
                )
            if description.scored_by != known.scored_by:
                log.warning(
                    "reward servers differ: %s scores with %s, %s with %s; pictures go to either",
                    first, known.answer.get("scored_by"), url, description.answer.get("scored_by"),
                )  # fmt: skip
        self._take(known)
        self._returns = returns

    def _take(self, new: Description) -> None:
        old, self._known = self._known, new
        if old is None or old.scored_by == new.scored_by:
            return
        if old.dimensions != new.dimensions:
            self._known = old
            raise ProtocolError(
                f"the reward server came back with the dimensions {', '.join(new.dimensions)}; it had "
                f"{', '.join(old.dimensions)}: start it with its former config"
            )
        log.warning(
            "the reward server came back as another: it scores with %s now, with %s before",
            new.answer.get("scored_by"), old.answer.get("scored_by"),
        )  # fmt: skip


def read(answer: Any) -> Description:
    """The parts of a description that matter to a client."""
    if not isinstance(answer, dict) or not isinstance(answer.get("dimensions"), list):
        raise ProtocolError("the server's /v1/scorers does not list dimensions")
    dimensions = tuple(map(str, answer["dimensions"]))
    limits = answer.get("limits") or {}
    return Description(
        answer=answer,
        dimensions=dimensions,
        scored_by=repr((answer.get("scored_by"), dimensions)).encode(),
        max_items=max(1, int(limits.get("max_items", MAX_ITEMS))),
        max_bytes=int(limits.get("max_bytes", MAX_BYTES)) * 9 // 10,  # the rest is for prompts and headers
    )
