"""Scores from a reward server, or from this process: the same interface, chosen by a config.

A server that is down or busy is waited for, with a visible message, up to `max_wait` seconds; then
`ServerUnavailable` is raised. A picture that cannot be scored is a missing score with its reason. Neither is
ever turned into a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from reward_plugin.access import read_token
from reward_plugin.connection import Connection
from reward_plugin.errors import BadImage, ConfigError, ProtocolError
from reward_plugin.images import to_npy, to_png
from reward_plugin.local import LocalRewards
from reward_plugin.types import ImageLike, Rewards, ScoreTable
from reward_plugin.wire import ScoreRequest, decode_response, encode_request

__all__ = ["LocalRewards", "RewardClient", "RewardsConfig", "build_rewards"]


@dataclass(frozen=True)
class RewardsConfig:
    """Where scores come from: a server (`url`) or this process (`scorers`).

    Attributes:
        url: Address of a reward server, or several over which batches are spread.
        scorers: What to load into this process, as in a server's config.
        token_file: File with the server's shared secret, where it asks for one; without it, the variable
            REWARD_TOKEN. The secret itself is no key: configurations are written into run directories.
        timeout: Seconds for one attempt at one request.
        max_wait: Seconds for all attempts at one request.
        batch_size: Pictures in one request.
    """

    url: str | list[str] | None = None
    scorers: list[dict[str, Any]] | None = None
    token_file: str | None = None
    timeout: float = 120.0
    max_wait: float = 300.0
    batch_size: int = 32


def build_rewards(config: RewardsConfig | Mapping[str, Any]) -> Rewards:
    """A client or local scorers, whichever the config asks for.

    Raises:
        ConfigError: both or neither of `url` and `scorers`, or an unknown key.
        CheckpointError: a local scorer's model cannot be loaded.
    """
    if isinstance(config, Mapping):
        known = RewardsConfig.__dataclass_fields__
        for key in config:
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
        timeout=config.timeout,
        max_wait=config.max_wait,
        batch_size=config.batch_size,
    )


class RewardClient:
    """Sends batches to one or more reward servers, in threads of its own.

    Pictures travel losslessly: as raw arrays to this machine, as PNG to others, and encoded bytes as they
    are. A request that fails on one server is tried on the next.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        timeout: float = 120.0,
        max_wait: float = 300.0,
        batch_size: int = 32,
        concurrency: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            urls: `http://host:port` of one or several servers with the same scorers.
            token: sent as bearer token.
            timeout: seconds for one attempt.
            max_wait: seconds for all attempts at one request.
            batch_size: pictures in one request; larger submissions are split.
            concurrency: requests under way at once.
            transport: what carries the requests instead of sockets, for tests.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: it must be at least 1")
        self.batch_size = batch_size
        self._connection = Connection(
            [urls] if isinstance(urls, str) else urls,
            token=token,
            timeout=timeout,
            max_wait=max_wait,
            max_connections=concurrency,
            transport=transport,
        )
        self._encode = to_npy if self._connection.is_local else to_png
        self._description: Mapping[str, Any] | None = None
        self._batches = ThreadPoolExecutor(concurrency, thread_name_prefix="reward-batch")
        self._requests = ThreadPoolExecutor(concurrency, thread_name_prefix="reward-request")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Columns of every table that comes back."""
        return tuple(self.description["dimensions"])

    @property
    def description(self) -> Mapping[str, Any]:
        """What the server says of itself at /v1/scorers; asked once."""
        if self._description is None:
            answer = self._connection.send("GET", "/v1/scorers")
            if not isinstance(answer, dict) or not isinstance(answer.get("dimensions"), list):
                raise ProtocolError("the server's /v1/scorers does not list dimensions")
            self._description = answer
        return self._description

    def submit(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> Future[ScoreTable]:
        """Start scoring; the images must not be changed until the future is done.

        The future raises `ServerUnavailable` when no server answered within `max_wait`, `RequestRefused` when
        one refused, `ScorerFailed` when the model failed.
        """
        if prompts is not None and len(prompts) != len(images):
            raise ConfigError(f"{len(prompts)} prompts for {len(images)} images; give one each, or none")
        return self._batches.submit(
            self._score_batch, list(images), None if prompts is None else list(prompts)
        )

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score and wait."""
        return self.submit(images, prompts).result()

    def wait_ready(self, timeout: float) -> None:
        """Wait until every server has its models loaded and has made a first score.

        Raises:
            ServerUnavailable: one of them is not ready after `timeout` seconds.
        """
        self._connection.wait_ready(timeout)

    def close(self) -> None:
        """Finish the requests under way, drop what waits for a turn or a server, close the connections."""
        self._connection.stop()
        self._batches.shutdown(cancel_futures=True)
        self._requests.shutdown(cancel_futures=True)
        self._connection.close()

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _score_batch(self, images: list[ImageLike], prompts: list[str] | None) -> ScoreTable:
        if not images:
            return ScoreTable.computed(self.dimensions, [])
        pending = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            texts = None if prompts is None else prompts[part]
            pending.append(self._requests.submit(self._score_part, images[part], texts))
        return ScoreTable.concat([future.result() for future in pending])

    def _score_part(self, images: list[ImageLike], prompts: list[str] | None) -> ScoreTable:
        """One request; pictures that cannot even be sent are missing, with their reason."""
        encoded: list[bytes] = []
        errors: list[str | None] = []
        for image in images:
            try:
                encoded.append(image if isinstance(image, bytes) else self._encode(image))
                errors.append(None)
            except BadImage as error:
                errors.append(str(error))
        texts = None
        if prompts is not None:
            texts = tuple(text for text, error in zip(prompts, errors, strict=True) if error is None)
        if not encoded:
            return ScoreTable.computed(self.dimensions, []).scatter(errors)
        content_type, body = encode_request(ScoreRequest(tuple(encoded), texts))
        answer = self._connection.send(
            "POST", "/v1/score", content=body, headers={"Content-Type": content_type}
        )
        table = decode_response(answer)
        if len(table) != len(encoded):
            raise ProtocolError(f"{len(encoded)} images were sent, {len(table)} scores came back")
        return table.scatter(errors)
