"""The reward server: one process, uvicorn, the application of `reward_plugin.app`."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reward_plugin.access import TOKEN_VARIABLE, is_loopback, read_token
from reward_plugin.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeConfig:
    """A reward server.

    Attributes:
        scorers: What to load: a list of `{name: ..., option: ...}`; `reward_plugin.scorers` has the names.
        host: Address to listen on. Any other than a loopback address asks for a token.
        port: Port to listen on; 0 takes a free one, which the log names.
        token_file: File with the bearer token that clients must send; without it, the variable REWARD_TOKEN.
        max_items: Pictures in one request.
        max_bytes: Bytes of one request.
        max_waiting: Requests that wait while one is scored; the next is told to come back later (503).
        exif: Turn pictures as their EXIF orientation says (apply), or take the pixels as they are stored, as
            the published scorers do (ignore).
        log_level: How much to say.
    """

    scorers: list[dict[str, Any]] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 8100
    token_file: Path | None = None
    max_items: int = 256
    max_bytes: int = 256 * 1024 * 1024
    max_waiting: int = 32
    exif: Literal["ignore", "apply"] = "ignore"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def serve(config: ServeConfig) -> None:
    """Load the scorers and answer until interrupted.

    The port is taken first, so that a conflict shows before minutes of loading; nobody is let in until the
    models are there.

    Raises:
        ConfigError: no token on an open address, the port is taken, an unknown scorer or option.
        CheckpointError: a model cannot be loaded.
    """
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    token = read_token(config.token_file)
    if token is None and not is_loopback(config.host):
        raise ConfigError(
            f"host {config.host}: reachable from other machines, so a token is required; set token_file or "
            f"{TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )
    listener = _listen(config.host, config.port)

    import uvicorn

    from reward_plugin.app import Limits, build_app
    from reward_plugin.score.identity import scored_by
    from reward_plugin.scorers import build_scorers

    scorers = build_scorers(config.scorers)
    limits = Limits(max_items=config.max_items, max_bytes=config.max_bytes, max_waiting=config.max_waiting)
    host, port = listener.getsockname()[:2]
    names = ", ".join(f"{scorer.name} ({', '.join(scorer.dimensions)})" for scorer in scorers)
    log.info("reward server on http://%s:%d: %s", f"[{host}]" if ":" in host else host, port, names)
    app = build_app(
        scorers,
        token=token,
        limits=limits,
        exif=config.exif,
        scored_by=scored_by(config.scorers, config.exif),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,
        )
    )
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: a port lies between 0 and 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"port {port} on {host}: {reason}; choose another port, or 0 for a free one"
        ) from None
    return listener
