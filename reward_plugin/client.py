"""Scores from a reward server, or from this process: the same interface, chosen by a config.

A server that is down or busy is waited for, with a visible message, up to `max_outage` seconds; then
`ServerUnavailable` is raised. A picture that cannot be scored is a missing score with its reason. Neither is
ever turned into a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from reward_plugin.about import About
from reward_plugin.access import read_token
from reward_plugin.cache import Row, ScoreCache
from reward_plugin.connection import Call, Connection
from reward_plugin.encoding import Body, Picture, digest, encode_each
from reward_plugin.errors import ConfigError, ProtocolError
from reward_plugin.local import LocalRewards
from reward_plugin.types import ImageLike, Rewards, ScoreTable
from reward_plugin.wire import decode_response

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
    once in the client's life.
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
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: it must be at least 1")
        self.batch_size = batch_size
        self.cache = ScoreCache(cache_items) if cache_items > 0 else None
        addresses = [urls] if isinstance(urls, str) else list(urls)
        threads = concurrency * max(1, len(addresses))
        self._connection = Connection(
            addresses,
            token=token,
            ca_file=ca_file,
            timeout=timeout,
            max_outage=max_outage,
            max_connections=threads,
            transport=transport,
        )
        self._about = About(self._connection)
        self._batches = ThreadPoolExecutor(threads, thread_name_prefix="reward-batch")
        self._requests = ThreadPoolExecutor(threads, thread_name_prefix="reward-request")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Columns of every table that comes back."""
        return self._about.now().dimensions

    @property
    def description(self) -> Mapping[str, Any]:
        """What the server says of itself at /v1/scorers; asked once, and again after an outage."""
        return self._about.now().answer

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
        if prompts is not None and len(prompts) != len(images):
            raise ConfigError(f"{len(prompts)} prompts for {len(images)} images; give one each, or none")
        texts = None if prompts is None else list(prompts)
        return self._batches.submit(self._score_batch, list(images), texts, Call(deadline))

    def score(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None = None,
        deadline: float | None = None,
    ) -> ScoreTable:
        """Score and wait."""
        return self.submit(images, prompts, deadline).result()

    def wait_ready(self, timeout: float) -> None:
        """Wait until every server has its models loaded and has made a first score.

        Raises:
            ServerUnavailable: one of them is not ready after `timeout` seconds.
            RequestRefused: it does not know the token.
            ConfigError: they score different dimensions.
        """
        self._connection.wait_ready(timeout)
        self._about.compare()

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

    def _score_batch(self, images: list[ImageLike], prompts: list[str] | None, call: Call) -> ScoreTable:
        about = self._about.now(call)
        if not images:
            return ScoreTable.computed(about.dimensions, [])
        size = part_size(len(images), min(self.batch_size, about.max_items), len(self._connection.urls))
        futures = []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            texts = None if prompts is None else prompts[part]
            futures.append(self._requests.submit(self._score_part, images[part], texts, call))
        try:
            return ScoreTable.concat([call.result_of(future) for future in futures])
        except Exception as error:
            call.lost = error  # the other parts need not be tried any more
            for future in futures:
                future.cancel()
            raise

    def _score_part(self, images: list[ImageLike], prompts: list[str] | None, call: Call) -> ScoreTable:
        """Pictures of one request; those that cannot even be sent are missing, with their reason."""
        pictures, errors = encode_each(images, raw=self._connection.is_local)
        if prompts is not None:
            prompts = [text for text, error in zip(prompts, errors, strict=True) if error is None]
        if not pictures:
            table = ScoreTable.computed(self._about.now(call).dimensions, [])
        elif self.cache is None:
            table = self._request(pictures, prompts, call)
        else:
            table = self._score_new(pictures, prompts, call, self.cache)
        return table.scatter(errors)

    def _score_new(
        self, pictures: list[Picture], prompts: list[str] | None, call: Call, cache: ScoreCache
    ) -> ScoreTable:
        """Only what is neither known nor being scored for somebody else is sent."""
        about, count = self._about.now(call), len(pictures)
        keys = [digest(p, prompts[i] if prompts else None, about.scored_by) for i, p in enumerate(pictures)]
        rows: dict[int, Row] = {}
        while open_ := [i for i in range(count) if i not in rows]:
            found = {i: cache.claim(keys[i]) for i in open_}
            mine = [i for i in open_ if found[i] is None]
            if mine:
                texts = None if prompts is None else [prompts[i] for i in mine]
                try:
                    table = self._request([pictures[i] for i in mine], texts, call)
                except BaseException:
                    cache.give_back(keys[i] for i in mine)
                    raise
                for i, values, error in zip(mine, table.values, table.errors, strict=True):
                    rows[i] = (values.copy(), error)
                    cache.settle(keys[i], rows[i])
            for i, there in found.items():
                row = call.result_of(there) if isinstance(there, Future) else there
                if row is not None:  # if the other one failed, it is this call's turn to try
                    rows[i] = row
        values, reasons = zip(*(rows[i] for i in range(count)), strict=True)
        return ScoreTable(about.dimensions, np.stack(values), reasons)

    def _request(self, pictures: list[Picture], prompts: list[str] | None, call: Call) -> ScoreTable:
        """Scores from a server, in several requests where one would be over its size limit."""
        about = self._about.now(call)
        if len(pictures) > 1 and sum(picture.size for picture in pictures) > about.max_bytes:
            half = len(pictures) // 2
            texts = (None, None) if prompts is None else (prompts[:half], prompts[half:])
            halves = zip((pictures[:half], pictures[half:]), texts, strict=True)
            return ScoreTable.concat([self._request(part, text, call) for part, text in halves])
        table = decode_response(self._connection.send("POST", "/v1/score", Body(pictures, prompts), call))
        if len(table) != len(pictures):
            raise ProtocolError(f"{len(pictures)} images were sent, {len(table)} scores came back")
        if table.dimensions != about.dimensions:
            raise ProtocolError(
                f"the scores that came back are {', '.join(table.dimensions)}; /v1/scorers promised "
                f"{', '.join(about.dimensions)}: serve the same scorers at every address"
            )
        return table


def part_size(images: int, most: int, servers: int) -> int:
    """Pictures in each request: at most `most`, about equally many, and something for every server."""
    return math.ceil(images / max(math.ceil(images / most), min(images, servers)))
