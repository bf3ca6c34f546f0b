"""`python -m eval rating`: how well scores agree with people's ratings.

Pictures of all sets are scored in one pass, each decoded once whatever the number of scorers and sets, by
what `python -m reward_plugin score` is made of: batches read ahead by threads, a row as it is scored, a run
that goes on where it ended. The rows are in `rows.jsonl`; ratings are joined to them afterwards, so a
corrected file of ratings costs no scoring.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.rating_config import RatingConfig
from eval.rating_data import RatingData, read_ratings
from eval.rating_page import write_tables
from eval.rating_results import build, complete
from eval.results import write
from reward_plugin.score.command import INTERRUPTED, SOME_FAILED, score_items
from reward_plugin.score.config import ScoreConfig
from reward_plugin.score.inputs import Item
from reward_plugin.score.rows import Row, dimensions_of

ROWS = "rows.jsonl"
#: In a row beside the scores: the picture's size, by which a changed file is noticed.
BYTES = "bytes"


def run(config: RatingConfig) -> int:
    """Score, compare, and write rows, record, tables and page; returns the exit code.

    0: every entry was used and every figure is defined; 3: done, and some are not; 130: interrupted.

    Raises:
        RewardError: scoring could not start or go on.
        ValueError: no set can be read, or a column does not exist.
    """
    sets = [read_ratings(name, place, config.duplicates) for name, place in config.chosen().items()]
    for data in sets:
        _say(data)
    items = _items(sets, config.prompt)
    if not items:
        problems = [data.problem for data in sets if data.problem]
        raise ValueError("; ".join(problems) or "no entry of any set can be used")
    need_pictures(items)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    sizes = {item.key[0]: item.extra[BYTES] for item in items}
    scored = score_items(items, _score_config(config), lambda row: changed(row, sizes))
    if scored is None:
        return INTERRUPTED
    rows, scored_by = scored
    columns = dimensions_of(rows, (BYTES,))
    by_path = {item.image: row for item, row in zip(items, rows, strict=True)}
    results = build(config, sets, by_path, columns, scored_by)
    write(results, out / "results.json")
    write_tables(results, out)
    return 0 if complete(results) else SOME_FAILED


def _items(sets: Sequence[RatingData], prompt: str | None) -> list[Item]:
    """Every picture once, in the order of the sets, whichever of them name it."""
    paths = dict.fromkeys(entry.path for data in sets for entry in data.rated)
    return [Item(path, prompt, {BYTES: size_of(path)}) for path in paths]


def changed(row: Row, sizes: dict[str, int | None]) -> bool:
    """Whether the file of a row's picture has another size than when the row was made."""
    path = os.path.abspath(row["image"])
    return path in sizes and row.get(BYTES) != sizes[path]


def need_pictures(items: Sequence[Item]) -> None:
    """ValueError where not one picture is there, before minutes of loading a model."""
    if all(item.extra[BYTES] is None for item in items):
        raise ValueError(
            f"none of {len(items)} pictures is there, such as {items[0].image}; give their folder as images"
        )


def size_of(path: str) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None  # its row says what is wrong


def _score_config(config: RatingConfig) -> ScoreConfig:
    same = ("model", "scorers", "url", "token_file", "device", "dtype", "prompt", "exif", "batch_size")
    options = {name: getattr(config, name) for name in (*same, "workers", "retry")}
    return ScoreConfig(**options, out=Path(config.out) / ROWS)


def _say(data: RatingData) -> None:
    """What is known before minutes of scoring."""
    for text in (data.problem, *data.notes):
        if text:
            print(f"eval: {text}", file=sys.stderr)
    if data.unusable:
        first = data.unusable[0]
        print(
            f"eval: {data.name}: {len(data.unusable)} of {data.rows} entries cannot be used, the first "
            f"({first.where}): {first.reason}",
            file=sys.stderr,
        )
