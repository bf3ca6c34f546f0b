"""The reward server: uvicorn, the application of `reward_plugin.app`, and the engine that a config names."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reward_plugin.access import TOKEN_VARIABLE, is_loopback, read_token
from reward_plugin.errors import ConfigError
from reward_plugin.ray_options import RayOptions

if TYPE_CHECKING:
    from reward_plugin.queueing import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeConfig:
    """A reward server.

    Attributes:
        scorers: What to load: a list of `{name: ..., option: ...}`; docs/scorers.md has the names.
        engine: Score in this process (local), or in replicas on several GPUs and machines (ray).
        ray: How the replicas of `engine: ray` are spread; docs/server_ray.md explains it.
        host: Address to listen on. Any other than a loopback address asks for a token.
        port: Port to listen on; 0 takes a free one, which the log names.
        token_file: File with the bearer token that clients must send; without it, the variable REWARD_TOKEN.
        tls_certificate: PEM file with the server's certificate and those between it and its authority; with
            it, the server speaks https.
        tls_key: PEM file with the certificate's key, without a passphrase; not needed where the certificate's
            file has it as well.
        max_items: Pictures in one request.
        max_bytes: Bytes of one request.
        max_waiting: Requests that wait while one is scored; the next is told to come back later (503).
        max_memory: Bytes of all requests that are being read, wait or are scored; past them, 503 as well.
        read_timeout: Seconds in which a request must have arrived.
        coalesce: With `engine: local`, waiting requests are scored as one batch while it has at most so many
            pictures; 0 scores each by itself, so that the last digits of a score do not depend on who else
            asks.
        exif: Turn pictures as their EXIF orientation says (apply), or take the pixels as they are stored, as
            the published scorers do (ignore).
        log_level: How much to say.
    """

    scorers: list[dict[str, Any]] = field(default_factory=list)
    engine: Literal["local", "ray"] = "local"
    ray: RayOptions = field(default_factory=RayOptions)
    host: str = "127.0.0.1"
    port: int = 8100
    token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_items: int = 256
    max_bytes: int = 256 * 1024 * 1024
    max_waiting: int = 32
    max_memory: int = 1024 * 1024 * 1024
    read_timeout: float = 60.0
    coalesce: int = 0
    exif: Literal["ignore", "apply"] = "ignore"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        if not isinstance(self.ray, RayOptions):  # as a command line's parser leaves it
            values = self.ray if isinstance(self.ray, Mapping) else vars(self.ray)
            object.__setattr__(self, "ray", RayOptions(**values))
        if self.coalesce < 0:
            raise ConfigError(f"coalesce {self.coalesce}: it must be at least 0")


def serve(config: ServeConfig) -> None:
    """Load the scorers and answer until interrupted.

    The port is taken first, so that a conflict shows before minutes of loading; nobody is let in until the
    models are there.

    Raises:
        ConfigError: no token on an open address, the port is taken, an unknown scorer or option, a
            certificate that cannot be used.
        CheckpointError: a model cannot be loaded.
    """
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("PIL").setLevel(logging.WARNING)  # at debug it tells of every chunk of a picture
    token = read_token(config.token_file)
    if token is None and not is_loopback(config.host):
        raise ConfigError(
            f"host {config.host}: reachable from other machines, so a token is required; set token_file or "
            f"{TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )
    _check_tls(config.tls_certificate, config.tls_key)
    listener = _listen(config.host, config.port)

    from reward_plugin.app import build_app
    from reward_plugin.score.identity import scored_by
    from reward_plugin.server.http import uvicorn_server
    from reward_plugin.server.limits import Limits

    names = ("max_items", "max_bytes", "max_waiting", "max_memory", "read_timeout")
    limits = Limits(**{name: getattr(config, name) for name in names})
    engine = build_engine(config)
    host, port = listener.getsockname()[:2]
    log.info(
        "reward server on %s://%s:%d: %s",
        "https" if config.tls_certificate else "http",
        f"[{host}]" if ":" in host else host,
        port,
        ", ".join(f"{info.name} ({', '.join(info.dimensions)})" for info in engine.describe()),
    )
    app = build_app(
        engine=engine,
        token=token,
        limits=limits,
        exif=config.exif,
        scored_by=scored_by(config.scorers, config.exif),
    )
    server = uvicorn_server(app, config.read_timeout, config.tls_certificate, config.tls_key)
    gc.collect()
    gc.freeze()  # what is loaded stays: to look through it for garbage would stop all answers for 0.1 s
    server.run(sockets=[listener])


def build_engine(config: ServeConfig) -> Engine:
    """What scores, with its scorers loaded.

    Raises:
        ConfigError: an unknown scorer or option, or Ray is missing or too small.
        CheckpointError: a model cannot be loaded.
    """
    if config.engine == "ray":
        from reward_plugin.ray_engine import RayEngine

        return RayEngine(config.scorers, config.ray)
    from reward_plugin.local_engine import LocalEngine
    from reward_plugin.scorers import build_scorers

    scorers = build_scorers(config.scorers)
    return LocalEngine(scorers, config.max_waiting, specs=config.scorers, coalesce=config.coalesce)


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    """Load certificate and key once before the models: `ConfigError` where that fails."""
    if certificate is None:
        if key is not None:
            raise ConfigError(f"tls_key {key}: set tls_certificate, too")
        return
    for name, file in (("tls_certificate", certificate), ("tls_key", key)):
        if file is not None and not file.is_file():
            raise ConfigError(f"{name} {file}: no such file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"tls_certificate {certificate}: cannot be used with its key: {error}; give PEM files that "
            "belong together, the key without a passphrase"
        ) from None


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
