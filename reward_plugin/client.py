"""Scores from a reward server, or from this process: the same interface, chosen by a config.

A server that is down or busy is waited for, with a visible message, up to `max_outage` seconds; then
`ServerUnavailable` is raised. A picture that cannot be scored is a missing score with its reason. Neither is
ever turned into a number.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpx

from reward_plugin.access import read_token
from reward_plugin.call import Call
from reward_plugin.errors import ConfigError, ServerUnavailable
from reward_plugin.local import LocalRewards
from reward_plugin.session import Session
from reward_plugin.types import ImageLike, Rewards, ScoreTable

__all__ = ["LocalRewards", "RewardClient", "RewardsConfig", "build_rewards"]


@dataclass(frozen=True)
class RewardsConfig:
    """Where scores come from: a server (`url`) or this process (`scorers`).

    Attributes:
        url: Address of a reward server, or several over which batches are spread.
        scorers: What to load into this process, as in a server's config.
        token_file: File with the server's shared secret, where it asks for one; without it, the variable
            REWARD_TOKEN. The secret itself is no key: configurations are written into run directories.
        ca_file: Certificates (PEM) to trust an https server by, instead of those that the machine trusts: a
            private authority's, or the server's own.
        timeout: Seconds for one attempt at one request.
        max_outage: Seconds without a usable answer, after which no further attempt is made.
        batch_size: Most pictures in one request.
    """

    url: str | list[str] | None = None
    scorers: list[dict[str, Any]] | None = None
    token_file: str | None = None
    ca_file: str | None = None
    timeout: float = 120.0
    max_outage: float = 300.0
    batch_size: int = 32


#: Keys that had another name.
RENAMED = {"max_wait": "max_outage"}


def build_rewards(config: RewardsConfig | Mapping[str, Any]) -> Rewards:
    """A client or local scorers, whichever the config asks for.

    Raises:
        ConfigError: both or neither of `url` and `scorers`, or an unknown key.
        CheckpointError: a local scorer's model cannot be loaded.
    """
    if isinstance(config, Mapping):
        known = RewardsConfig.__dataclass_fields__
        for key in config:
            if key in RENAMED:
                raise ConfigError(f"rewards: {key} is called {RENAMED[key]} now; rename the key")
            if key not in known:
                raise ConfigError(f"rewards: unknown key {key!r}; known are {', '.join(known)}")
        config = RewardsConfig(**config)
    if bool(config.url) == bool(config.scorers):
        raise ConfigError("rewards: give either url (a reward server) or scorers (in this process)")
    if config.scorers:
        from reward_plugin.scorers import build_scorers

        return LocalRewards(build_scorers(config.scorers))
    return RewardClient(
        config.url or (),
        token=read_token(config.token_file),
        ca_file=config.ca_file,
        timeout=config.timeout,
        max_outage=config.max_outage,
        batch_size=config.batch_size,
    )


class RewardClient:
    """Sends batches to one or more reward servers, in threads of its own.

    Pictures travel losslessly: as raw arrays to this machine, as PNG to others, and encoded bytes as they
    are. A request that fails on one server is tried on the next. Equal pictures with equal prompts are scored
    once in the client's life. All its scores are by the same model: a server that comes back with another one
    counts as away. May be pickled (with its token) and used after a fork; a copy has connections and a memory
    of its own.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        ca_file: str | None = None,
        timeout: float = 120.0,
        max_outage: float = 300.0,
        batch_size: int = 32,
        concurrency: int = 4,
        cache_items: int = 65536,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            urls: `http://host:port` of one or several servers with the same scorers.
            token: sent as bearer token.
            ca_file: certificates (PEM) to trust an https server by, instead of those that the machine trusts.
            timeout: seconds for one attempt at one request.
            max_outage: seconds without a usable answer, after which a request makes no further attempt.
            batch_size: most pictures in one request; larger submissions are split.
            concurrency: requests under way at once, for each server.
            cache_items: pictures whose scores are remembered, about 300 bytes each; 0: every picture is
                scored, however often it comes.
            transport: what carries the requests instead of sockets, for tests.
        """
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("concurrency", concurrency, 1),
            ("timeout", timeout, 0.001),
            ("max_outage", max_outage, 0),
        ):
            if not value >= least:
                raise ConfigError(f"{name} {value}: it must be at least {least}")
        self._settings: dict[str, Any] = {
            "urls": [urls] if isinstance(urls, str) else list(urls),
            "token": token,
            "ca_file": ca_file,
            "timeout": timeout,
            "max_outage": max_outage,
            "batch_size": batch_size,
            "concurrency": concurrency,
            "cache_items": cache_items,
            "transport": transport,
        }
        self._opened = Session(**self._settings)

    @property
    def _session(self) -> Session:
        """What belongs to this process, made anew after a fork, which no thread survives."""
        if self._opened.process != os.getpid():
            self._opened = Session(**self._settings)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Columns of every table that comes back."""
        return self._session.about.now().dimensions

    @property
    def description(self) -> Mapping[str, Any]:
        """What the server says of itself at /v1/scorers; asked once."""
        return self._session.about.now().answer

    def submit(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None = None,
        deadline: float | None = None,
    ) -> Future[ScoreTable]:
        """Start scoring; the images must not be changed until the future is done.

        Args:
            images: see `ImageLike`.
            prompts: one for each, or none.
            deadline: seconds from now in which all of it must be done, waiting for a turn included; None: as
                long as the servers answer.

        The future raises `ServerUnavailable` when no server answered for `max_outage` seconds or the deadline
        passed, `RequestRefused` when one refused, `ScorerFailed` when the model failed. A picture that cannot
        be read raises nothing: its scores are missing, with the reason.
        """
        return self._start(images, prompts, Call(deadline))

    def score(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None = None,
        deadline: float | None = None,
    ) -> ScoreTable:
        """Score and wait; the errors are those of `submit`. An interrupt ends the attempts, too."""
        call = Call(deadline)
        try:
            return self._start(images, prompts, call).result()
        except BaseException:
            call.lost = call.lost or ServerUnavailable("nobody waits for these scores any more")
            self._session.connection.wake()
            raise

    def wait_ready(self, timeout: float) -> None:
        """Wait until every server has its models loaded and has made a first score.

        Raises:
            ServerUnavailable: one of them is not ready after `timeout` seconds.
            RequestRefused: it does not know the token.
            ConfigError: they score differently.
        """
        self._session.connection.wait_ready(timeout)
        self._session.about.compare()

    def close(self, *, wait: bool = True) -> None:
        """Drop what waits for a turn or a server, finish the requests under way, close the connections.

        Args:
            wait: for the requests under way, at most `timeout` seconds; or give them up.
        """
        if self._opened.process == os.getpid():  # not in a fork that never used it
            self._opened.close(wait=wait)

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(wait=exc[0] is None)

    def _start(
        self, images: Sequence[ImageLike], prompts: Sequence[str] | None, call: Call
    ) -> Future[ScoreTable]:
        if prompts is not None and len(prompts) != len(images):
            raise ConfigError(f"{len(prompts)} prompts for {len(images)} images; give one each, or none")
        texts = None if prompts is None else list(prompts)
        return self._session.start(list(images), texts, call)
