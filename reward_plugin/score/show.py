"""Scores for the eyes: a card for one picture, an aligned line for each of several, a progress bar."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from reward_plugin.score.formats import json_line
from reward_plugin.score.rows import Row
from reward_plugin.score.summary import decimals

BAR = 24
NAME_WIDTH = 44
EIGHTHS = " ▏▎▍▌▋▊▉"

Ranges = Mapping[str, tuple[float, float]]


class Printer:
    """Prints rows to a terminal as a table, to anything else as JSON lines."""

    def __init__(
        self, stream: TextIO, names: Sequence[str], dimensions: Sequence[str], ranges: Ranges
    ) -> None:
        """Take where to print, the paths of all pictures, and what is known of the scores."""
        self.stream, self.dimensions, self.ranges = stream, dimensions, ranges
        self.json = not stream.isatty()
        self.single = len(names) == 1
        self.width = min(NAME_WIDTH, max((len(name) for name in names), default=0))
        self.digits = [decimals(*ranges.get(name, (0.0, 100.0))) for name in dimensions]
        self.columns = [max(len(name), 6) for name in dimensions]
        self._head = not self.json and not self.single

    def print(self, rows: Sequence[Row]) -> None:
        """Print some rows now."""
        if self._head and rows:
            names = (name.rjust(width) for name, width in zip(self.dimensions, self.columns, strict=True))
            self._line("  ".join([" " * self.width, *names]))
            self._head = False
        for row in rows:
            if self.json:
                self._line(json_line(row))
            elif self.single:
                self._line(card(row, self.dimensions, self.ranges, unicode=speaks_unicode(self.stream)))
            else:
                self._line(self._table_line(row))
        self.stream.flush()

    def _table_line(self, row: Row) -> str:
        scores = [
            _score(row.get(name), digits).rjust(width)
            for name, digits, width in zip(self.dimensions, self.digits, self.columns, strict=True)
        ]
        reason = str(row["error"]).removeprefix(f"{row['image']}: ") if row["error"] else ""
        name = shorten(row["image"], self.width).ljust(self.width)
        return "  ".join([name, *scores, reason]).rstrip()

    def _line(self, text: str) -> None:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=self.stream)


def card(row: Row, dimensions: Sequence[str], ranges: Ranges, *, unicode: bool = True) -> str:
    """One picture: a line for each dimension with a bar over its range."""
    lines = [str(row["image"])]
    if row.get("prompt"):
        lines.append(f"  prompt: {row['prompt']}")
    width = max(map(len, dimensions), default=0)
    for name in dimensions:
        low, high = ranges.get(name, (math.nan, math.nan))
        value = row.get(name)
        bar = ""
        if isinstance(value, float) and low < high and math.isfinite(high - low):
            bar = f"  {_bar((value - low) / (high - low), unicode)}  {low:g} to {high:g}"
        digits = decimals(low, high) if low < high else 2
        lines.append(f"  {name.ljust(width)}  {_score(value, digits).rjust(8)}{bar}")
    if row["error"]:
        lines.append(f"  {row['error']}")
    return "\n".join(lines)


def shorten(name: str, width: int) -> str:
    """The name, with its middle left out where it is too long: ends tell files apart."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return name[: width - 1 - tail] + "…" + name[-tail:]


def speaks_unicode(stream: Any = None) -> bool:
    """Whether block characters can be printed there."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")


def _score(value: Any, digits: int) -> str:
    return "-" if value is None else f"{float(value):.{digits}f}"


def _bar(share: float, unicode: bool) -> str:
    eighths = round(min(max(share, 0.0), 1.0) * BAR * 8)
    if not unicode:
        return ("#" * (eighths // 8)).ljust(BAR, ".")
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(BAR, "░")


def progress_bar(total: int, prints: bool) -> tqdm:
    """Drawn where a person looks on, and rows do not appear among it, be it through a pipe."""
    shown = sys.stderr.isatty() and (not prints or stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode))
    # the terminal of a container may have no size, and tqdm would draw nothing in it
    unknown = shown and not all(os.get_terminal_size(sys.stderr.fileno()))
    columns, lines = (80, 24) if unknown else (None, None)
    return tqdm(total=total, unit="img", disable=not shown, smoothing=0.1, ncols=columns, nrows=lines)
