"""The run of `python -m reward_plugin score`, from start to end.

Exit codes: 0 every picture has all its scores; 3 the run is complete, and some pictures have not; 1 it could
not start or go on; 2 the command line is wrong; 130 it was interrupted. Whatever the code, what was scored is
in `--out`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from reward_plugin.errors import ConfigError, ProtocolError, RewardError, ScorerFailed
from reward_plugin.score.alone import alone
from reward_plugin.score.backend import Backend
from reward_plugin.score.config import ScoreConfig
from reward_plugin.score.filters import Filter, parse_filter
from reward_plugin.score.formats import check_folder, need_pyarrow, write_rows
from reward_plugin.score.inputs import Item, gather
from reward_plugin.score.output import FORMATS, RowFile, open_rows
from reward_plugin.score.reading import Loaded, batches
from reward_plugin.score.rows import Row, columns_of, dimensions_of, extra_keys, make_rows, recovered
from reward_plugin.score.sheet import check_sheet, write_sheet
from reward_plugin.score.show import Printer, progress_bar, speaks_unicode
from reward_plugin.score.summary import summary_text
from reward_plugin.types import ScoreTable

SOME_FAILED = 3
INTERRUPTED = 130


def run(images: Sequence[str], config: ScoreConfig) -> int:
    """Score pictures; returns the exit code.

    Raises:
        RewardError: it could not start or go on.
    """

    def find() -> list[Item]:
        _spare_sources(config, images)
        return gather(images, prompt=config.prompt, recursive=config.recursive, skip=config.sheet)

    job = _run(find, config)
    return INTERRUPTED if job is None else job.finish()


def score_items(
    items: Sequence[Item], config: ScoreConfig, stale: Callable[[Row], bool] | None = None
) -> tuple[list[Row], str] | None:
    """Score pictures into `config.out`, and go on where a run ended; for callers that make a report of their
    own.

    Args:
        items: what to score; their further keys go into the rows.
        config: what scores, and `out`.
        stale: of a row that the file holds, whether it is to be scored again.

    Returns:
        The row of each item, and what scored them all (`scored_by`); None where the user interrupted it.

    Raises:
        RewardError: it could not start or go on.
    """
    job = _run(lambda: items, config, stale)
    return None if job is None else ([row for row in job.rows if row is not None], job.backend.scored_by)


def _run(
    find: Callable[[], Sequence[Item]], config: ScoreConfig, stale: Callable[[Row], bool] | None = None
) -> _Job | None:
    """Score all items; None where the user interrupted it."""
    wanted = _check(config)
    with ExitStack() as stack:
        backend = stack.enter_context(Backend(config))
        items = find()
        out = None
        if config.out is not None:
            out = open_rows(config.out, backend.scored_by)
            stack.callback(out.close)
        rows = _found(items, out, lambda row: (config.retry and row["error"]) or (stale and stale(row)))
        todo = [i for i, row in enumerate(rows) if row is None]
        if out is not None and len(todo) < len(items):
            _say(f"{len(items) - len(todo)} of {len(items)} are in {config.out} already")
        job = _Job(config, items, rows, backend, wanted)
        try:
            job.score(todo, out)
        except KeyboardInterrupt:
            _stopped(job, config, "interrupted")
            return None
        except RewardError as error:
            if out is None or not job.done:
                raise
            _stopped(job, config, "stopped")
            raise error
    return job


class _Job:
    """One run: its items, their rows as they come, and what is done with them."""

    def __init__(
        self,
        config: ScoreConfig,
        items: Sequence[Item],
        rows: list[Row | None],
        backend: Backend,
        wanted: Filter | None,
    ) -> None:
        self.config, self.items, self.rows, self.backend, self.wanted = config, items, rows, backend, wanted
        self.extra = extra_keys(items)
        self.dimensions: Sequence[str] = dimensions_of([row for row in rows if row], self.extra)
        self.prints = config.out is None
        self.failed_in_a_row, self.worked = 0, False  # pictures that a scorer fails on alone
        by = config.sheet_by
        self.sheet_by = by if isinstance(by, list) else [name.strip() for name in by.split(",")]

    @property
    def done(self) -> int:
        return sum(row is not None for row in self.rows)

    def score(self, todo: Sequence[int], out: RowFile | None) -> None:
        """Fill the rows that are missing, and print or write them batch by batch."""
        if todo:
            self.dimensions = self.backend.open()
        columns = columns_of(self.items, self.dimensions)
        if self.wanted is not None:
            self.wanted.check([*self.dimensions, *self.extra])
        for name in self.sheet_by:
            if name not in self.dimensions:
                raise ConfigError(f"sheet_by: unknown name {name!r}; known are {', '.join(self.dimensions)}")
        printer = self._printer() if self.prints else None
        if not todo:
            return
        if out is not None:
            out.start(columns)
        at = iter(todo)
        failed = 0
        with progress_bar(len(todo), self.prints) as bar:
            for batch, table in self._scored([self.items[i] for i in todo]):
                new = make_rows([loaded.item for loaded in batch], table, self.backend.scored_by)
                if out is not None:
                    out.append(new)
                for row in new:
                    self.rows[next(at)] = row
                if printer is not None:
                    printer.print(self._passing(new) if self.config.list is None else new)
                failed += sum(bool(row["error"]) for row in new)
                if failed:
                    bar.set_postfix_str(f"{failed} failed", refresh=False)
                bar.update(len(new))

    def _scored(self, items: Sequence[Item]) -> Iterator[tuple[list[Loaded], ScoreTable]]:
        """Batches in order with their scores; some more are under way while one is looked at."""
        backend = self.backend
        waiting: deque[tuple[list[Loaded], Future[ScoreTable] | None]] = deque()
        size, weight = backend.batch_size, backend.max_weight
        for batch in batches(items, backend.load, size=size, workers=self.config.workers, max_weight=weight):
            pictures = [loaded.picture for loaded in batch if loaded.picture is not None]
            # scorers take prompts for all of a batch, or for none; an empty one counts as none
            prompts = [loaded.item.prompt or "" for loaded in batch if loaded.picture is not None]
            texts = prompts if any(prompts) else None
            future = backend.rewards.submit(pictures, texts) if pictures else None
            waiting.append((batch, future))
            if len(waiting) > backend.depth:
                yield self._result(*waiting.popleft())
        while waiting:
            yield self._result(*waiting.popleft())

    def _result(
        self, batch: list[Loaded], future: Future[ScoreTable] | None
    ) -> tuple[list[Loaded], ScoreTable]:
        """A batch and its scores; what could not be read is missing with its reason."""
        try:
            table = ScoreTable.computed(self.dimensions, []) if future is None else future.result()
        except ScorerFailed as error:
            table = self._one_by_one([loaded for loaded in batch if loaded.picture is not None], error)
        else:
            self.failed_in_a_row, self.worked = 0, self.worked or future is not None
        if tuple(table.dimensions) != tuple(self.dimensions):
            raise ProtocolError(f"scores {table.dimensions} came back instead of {self.dimensions}")
        return batch, table.scatter([loaded.error for loaded in batch])

    def _one_by_one(self, batch: Sequence[Loaded], reason: ScorerFailed) -> ScoreTable:
        """Scores of a batch on which a scorer failed: the picture that it fails on alone costs no other.

        Raises:
            ScorerFailed: it fails on all of them, and it is not one picture's doing.
        """
        tables = [alone(loaded, self.backend, self.dimensions) for loaded in batch]
        for table in tables:
            self.failed_in_a_row = self.failed_in_a_row + 1 if table.errors[0] else 0
        if all(table.errors[0] for table in tables) and (self.failed_in_a_row > 1 or not self.worked):
            raise reason
        self.worked = True
        return ScoreTable.concat(tables)

    def finish(self) -> int:
        """Summary, filter, sheet; returns the exit code."""
        rows = [row for row in self.rows if row is not None]
        config = self.config
        failed = sum(bool(row["error"]) for row in rows)
        passing = self._passing(rows)
        if self.wanted is not None and config.list is not None:
            write_rows(config.list, passing, columns_of(self.items, self.dimensions))
        elif self.wanted is not None and not self.prints:
            self._printer().print(passing)
        self._summarise(rows, failed, len(passing))
        if config.sheet is not None:
            write_sheet(config.sheet, rows, self.sheet_by or self.dimensions[:3], config.exif)
            _say(f"contact sheet: {config.sheet}")
        return SOME_FAILED if failed else 0

    def _summarise(self, rows: Sequence[Row], failed: int, passing: int) -> None:
        """On the terminal after tables and with --out; a pipe that takes JSON gets none."""
        piped = self.prints and not sys.stdout.isatty()
        if not piped and (len(rows) > 1 or not self.prints):
            text = summary_text(rows, self.dimensions, unicode=speaks_unicode(sys.stderr))
            print(f"\n{text}\n" if self.prints else text, file=sys.stderr)
        elif failed and piped:
            _say(f"{failed} of {len(rows)} images have no complete score")
        if self.wanted is not None:
            to = f": {self.config.list}" if self.config.list is not None else ""
            _say(f"{passing} of {len(rows)} pass {self.wanted.text!r}{to}")
        if self.config.out is not None:
            _say(f"{len(rows)} rows: {self.config.out}")

    def _passing(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if self.wanted is None or self.wanted.passes(row)]

    def _printer(self) -> Printer:
        names = [item.image for item in self.items]
        return Printer(sys.stdout, names, self.dimensions, self.backend.ranges)


def _check(config: ScoreConfig) -> Filter | None:
    """Whatever can be wrong before minutes of loading; returns the parsed filter."""
    for name in ("batch_size", "workers"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} {getattr(config, name)}: it must be at least 1")
    if config.list is not None:
        if config.filter is None:
            raise ConfigError(
                f"list {config.list}: it lists what passes --filter; give one, or --out for all"
            )
        if config.list.suffix.lower() not in (".txt", *FORMATS):
            raise ConfigError(f"list {config.list}: its suffix must be one of .txt, {', '.join(FORMATS)}")
        check_folder("list", config.list)
        if config.out is not None and config.out.absolute() == config.list.absolute():
            raise ConfigError(f"list {config.list}: is also --out; give another")
    if config.retry and config.out is None:
        raise ConfigError("retry: it goes on with a file; give --out FILE")
    if any(path is not None and path.suffix == ".parquet" for path in (config.out, config.list)):
        need_pyarrow()
    if config.sheet is not None:
        check_sheet(config.sheet)
    return None if config.filter is None else parse_filter(config.filter)


def _spare_sources(config: ScoreConfig, sources: Sequence[str]) -> None:
    for name in ("out", "list", "sheet"):
        file: Path | None = getattr(config, name)
        for source in sources:
            if file is not None and os.path.exists(source) and file.exists() and file.samefile(source):
                raise ConfigError(f"{name} {file}: is also what is to be scored; give another file")


def _found(items: Sequence[Item], out: RowFile | None, again: Callable[[Row], object]) -> list[Row | None]:
    """The row of each item that the file holds already, or None; rows to be made again leave the file."""
    if out is None:
        return [None] * len(items)
    kept = [row for row in out.rows if not again(row)]
    if len(kept) < len(out.rows):
        out.keep(kept)
    there: defaultdict[tuple[str, str | None], deque[Row]] = defaultdict(deque)
    for row in out.rows:
        there[Item(row["image"], row.get("prompt")).key].append(row)
    return [recovered(there[item.key].popleft(), item) if there[item.key] else None for item in items]


def _stopped(job: _Job, config: ScoreConfig, how: str) -> None:
    where = ""
    if config.out is not None:
        where = f"; they are in {config.out}, and the same command goes on from there"
    _say(f"{how}: {job.done} of {len(job.items)} pictures are scored{where}")


def _say(message: str) -> None:
    print(f"reward_plugin: {message}", file=sys.stderr)


logging.getLogger("httpx").setLevel(logging.WARNING)
