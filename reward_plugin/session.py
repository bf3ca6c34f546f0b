"""The work of a client within one process: from a batch of pictures to requests, and back to one table."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Future

import httpx
import numpy as np

from reward_plugin.about import About
from reward_plugin.cache import Row, ScoreCache
from reward_plugin.call import Call
from reward_plugin.connection import Connection
from reward_plugin.encoding import Body, Picture, digest, encode_each
from reward_plugin.errors import ProtocolError, TooLarge
from reward_plugin.types import ImageLike, ScoreTable
from reward_plugin.wire import decode_response
from reward_plugin.workers import Workers


class Session:
    """Threads, connections, locks and memory: what a fork or a pickle cannot take along.

    Attributes:
        process: The id of the process that all of it belongs to.
        connection: To the servers.
        about: What they say of themselves.
        cache: Scores that are known; None where every picture is to be scored.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str | None,
        ca_file: str | None,
        timeout: float,
        max_outage: float,
        batch_size: int,
        concurrency: int,
        cache_items: int,
        transport: httpx.BaseTransport | None,
    ) -> None:
        """Open nothing yet; the arguments are those of `RewardClient`."""
        self.process = os.getpid()
        threads = concurrency * max(1, len(urls))
        self.connection = Connection(
            urls,
            token=token,
            ca_file=ca_file,
            timeout=timeout,
            max_outage=max_outage,
            max_connections=threads,
            transport=transport,
        )
        self.about = About(self.connection)
        self.cache = ScoreCache(cache_items) if cache_items > 0 else None
        self._batch_size = batch_size
        self._most_bytes = math.inf  # of the pictures in a request, as far as refusals have shown
        self._batches = Workers(threads, "reward-batch")
        self._requests = Workers(threads, "reward-request")

    def start(self, images: list[ImageLike], prompts: list[str] | None, call: Call) -> Future[ScoreTable]:
        """Have a batch scored; the errors of the future are those of `RewardClient.submit`."""
        return call.in_time(self._batches.submit(self._score_batch, images, prompts, call))

    def close(self, *, wait: bool) -> None:
        """See `RewardClient.close`."""
        self.connection.stop()
        self._batches.close(wait=wait)
        self._requests.close(wait=wait)
        self.connection.close()

    def _score_batch(self, images: list[ImageLike], prompts: list[str] | None, call: Call) -> ScoreTable:
        about = self.about.now(call)
        if not images:
            return ScoreTable.computed(about.dimensions, [])
        size = part_size(len(images), min(self._batch_size, about.max_items), len(self.connection.urls))
        futures = []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            texts = None if prompts is None else prompts[part]
            futures.append(self._requests.submit(self._score_part, images[part], texts, call))
            futures[-1].add_done_callback(lambda future: self._give_up_with(future, call))
        try:
            return ScoreTable.concat([call.result_of(future) for future in futures])
        except Exception as error:
            call.lost = call.lost or error
            self.connection.wake()
            for future in futures:
                future.cancel()
            raise

    def _give_up_with(self, part: Future[ScoreTable], call: Call) -> None:
        """When one part has failed, the others need not be tried any more, whichever is waited for."""
        if not part.cancelled() and (error := part.exception()) is not None and call.lost is None:
            call.lost = error
            self.connection.wake()

    def _score_part(self, images: list[ImageLike], prompts: list[str] | None, call: Call) -> ScoreTable:
        """Pictures of one request; those that cannot even be sent are missing, with their reason."""
        pictures, errors = encode_each(images, raw=self.connection.is_local)
        if prompts is not None:
            prompts = [text for text, error in zip(prompts, errors, strict=True) if error is None]
        if not pictures:
            table = ScoreTable.computed(self.about.now(call).dimensions, [])
        elif self.cache is None:
            table = self._request(pictures, prompts, call)
        else:
            table = self._score_new(pictures, prompts, call, self.cache)
        return table.scatter(errors)

    def _score_new(
        self, pictures: list[Picture], prompts: list[str] | None, call: Call, cache: ScoreCache
    ) -> ScoreTable:
        """Only what is neither known nor being scored for somebody else is sent."""
        about, count = self.about.now(call), len(pictures)
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
        """Scores from a server, in several requests where one is over its size limits; a single picture that
        is over them has no score.
        """
        about, size = self.about.now(call), sum(picture.size for picture in pictures)
        if len(pictures) > 1 and size > min(about.max_bytes, self._most_bytes):
            return self._halves(pictures, prompts, call)
        body = Body(pictures, prompts)
        try:
            answer = self.connection.send("POST", "/v1/score", body, call, trouble=about.differs)
        except TooLarge as error:  # a proxy's limit, or a server that came back with less
            if len(pictures) == 1:
                return ScoreTable.computed(about.dimensions, []).scatter([str(error)])
            self._most_bytes = min(self._most_bytes, size / 2)
            return self._halves(pictures, prompts, call)
        table = decode_response(answer)
        if answer.get("id") != body.id or len(table) != len(pictures):
            raise ProtocolError(
                f"the answer is to another request: {len(pictures)} images were sent as {body.id}, "
                f"{len(table)} scores came back for {str(answer.get('id'))[:40]}"
            )
        return table

    def _halves(self, pictures: list[Picture], prompts: list[str] | None, call: Call) -> ScoreTable:
        half = len(pictures) // 2
        texts = (None, None) if prompts is None else (prompts[:half], prompts[half:])
        parts = zip((pictures[:half], pictures[half:]), texts, strict=True)
        return ScoreTable.concat([self._request(part, text, call) for part, text in parts])


def part_size(images: int, most: int, servers: int) -> int:
    """Pictures in each request: at most `most`, about equally many, and something for every server."""
    return math.ceil(images / max(math.ceil(images / most), min(images, servers)))
