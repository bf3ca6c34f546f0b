"""Scoring in this process, behind the interface of the client."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from reward_plugin.errors import ConfigError
from reward_plugin.scoring import all_dimensions, all_ranges, score_all
from reward_plugin.types import ImageLike, Scorer, ScoreTable


class LocalRewards:
    """Scores with scorers of this process, one batch at a time in a worker thread.

    The thread lets scoring overlap with sampling: torch releases the interpreter lock inside its operators.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        """Take scorers that are already built; their dimensions must differ."""
        if not scorers:
            raise ConfigError("scorers is empty; name at least one")
        self.scorers = tuple(scorers)
        self.dimensions = all_dimensions(self.scorers)
        self.ranges = all_ranges(self.scorers)
        self._start_worker()

    def _start_worker(self) -> None:
        self._process = os.getpid()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rewards")

    def submit(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> Future[ScoreTable]:
        """Start scoring; the images must not be changed until the future is done."""
        if self._process != os.getpid():  # a fork, which the thread did not survive
            self._start_worker()
        return self._worker.submit(score_all, self.scorers, list(images), prompts)

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score and wait."""
        return self.submit(images, prompts).result()

    def wait_ready(self, timeout: float) -> None:
        """Return at once: the scorers are loaded."""

    def close(self) -> None:
        """Finish what is running, drop what is waiting."""
        self._worker.shutdown(cancel_futures=True)

    def __enter__(self) -> LocalRewards:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
