"""What stands between the HTTP application and the scorers: an engine, with a bounded number of jobs in it.

`LocalEngine` (`reward_plugin.local_engine`) scores in threads of the server's process; other engines may
score elsewhere. The application knows only what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reward_plugin.images import MAX_PIXELS, Exif
from reward_plugin.types import ScoreTable


class Full(Exception):
    """As many requests are waiting as are allowed; the caller may come back after `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, eq=False)
class ScoreJob:
    """One request's pictures, as they came, and what is wanted for them.

    Attributes:
        images: N encoded pictures or .npy files; memoryviews into the request's body, so an engine that sends
            them to another process makes bytes of them first.
        prompts: N texts, or None.
        scorers: Names of the scorers to run, in the order of the answer's columns; each is one of
            `Engine.describe()`, and none occurs twice.
        max_pixels: Width times height of one picture; a larger one is missing and says why.
        exif: Whether encoded pictures are turned as their orientation tag says.
        id: The request's id, for logs.
    """

    images: Sequence[bytes | memoryview]
    prompts: Sequence[str] | None
    scorers: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    exif: Exif = "ignore"
    id: str = ""


@dataclass(frozen=True)
class ScorerInfo:
    """What a server says of one scorer.

    Attributes:
        name: As in the config.
        dimensions: Columns that it fills.
        ranges: Lowest and highest possible score of each dimension.
        model: Hub id, or the model folder's own name without the way to it; None without a model.
        revision: Commit, tag or branch of a hub id, or a digest of a folder's content; None without a model.
        precision: Number format that it computes in, such as `bfloat16`; None without a model.
    """

    name: str
    dimensions: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    model: str | None = None
    revision: str | None = None
    precision: str | None = None


class Engine(Protocol):
    """Scores jobs. Its methods are called on the event loop, and only `run` and `close` may take time.

    Attributes:
        observe: Set by the application; an engine that knows them calls it, from any thread, with the seconds
            that a job waited and the seconds that it was scored.
    """

    observe: Callable[[float, float], None]

    @property
    def jobs(self) -> int:
        """Jobs accepted and not yet finished: those that wait and those that are scored."""

    def describe(self) -> Sequence[ScorerInfo]:
        """The scorers, in the order of their columns; known from the start, dimensions all different."""

    def check_room(self) -> None:
        """Raise `Full` where `run` would do so now: asked before a request's body is read."""

    def trouble(self) -> str | None:
        """Why nothing can be scored at present, as far as the engine knows (no replica alive); else None."""

    async def run(self, job: ScoreJob) -> ScoreTable:
        """The scores of a job: N rows, the columns of `job.scorers` in that order.

        An unreadable picture is a row of NaN with its reason. A cancelled call (its client has hung up) drops
        a job that is not being scored yet, and otherwise comes back when it is scored: until then its
        pictures take memory.

        Raises:
            Full: too many jobs already; this one was not taken.
            TooLarge: the pictures together have more pixels than the engine decodes for one request.
            ScorerFailed: a scorer failed on the whole batch.
        """

    def close(self) -> None:
        """Finish what is being scored, drop what waits, release threads and processes."""
