"""How the scores of many pictures are distributed, one line a dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reward_plugin.score.rows import Row, scores_of

QUANTILES = (5, 25, 50, 75, 95)
BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*#%"
BINS = 16


@dataclass(frozen=True)
class Distribution:
    """One dimension over the pictures that have it.

    Attributes:
        dimension: its name.
        count: pictures with a score.
        missing: pictures without.
        mean: arithmetic mean; NaN without scores, as all the following.
        sd: standard deviation of the sample; 0 for a single score.
        minimum: smallest score.
        quantiles: at `QUANTILES` percent, linearly interpolated.
        maximum: largest score.
        histogram: pictures in `BINS` equal steps from the smallest to the largest score.
    """

    dimension: str
    count: int
    missing: int
    mean: float
    sd: float
    minimum: float
    quantiles: tuple[float, ...]
    maximum: float
    histogram: tuple[int, ...]


def distribution(rows: Sequence[Row], dimension: str) -> Distribution:
    """Statistics of one dimension."""
    scores = scores_of(rows, dimension)
    there = scores[np.isfinite(scores)]
    missing = len(scores) - len(there)
    if not len(there):
        nan = float("nan")
        return Distribution(dimension, 0, missing, nan, nan, nan, (nan,) * len(QUANTILES), nan, (0,) * BINS)
    return Distribution(
        dimension,
        len(there),
        missing,
        float(there.mean()),
        float(there.std(ddof=1)) if len(there) > 1 else 0.0,
        float(there.min()),
        tuple(float(value) for value in np.percentile(there, QUANTILES)),
        float(there.max()),
        tuple(int(n) for n in np.histogram(there, BINS)[0]),
    )


def summary_text(rows: Sequence[Row], dimensions: Sequence[str], *, unicode: bool = True) -> str:
    """An aligned table, and the reasons of failures, most frequent kinds first."""
    table = [["", "count", "missing", "mean", "sd", "min", *(f"{q} %" for q in QUANTILES), "max"]]
    bars = [""]
    for dimension in dimensions:
        d = distribution(rows, dimension)
        digits = decimals(d.minimum, d.maximum)
        numbers = (d.mean, d.sd, d.minimum, *d.quantiles, d.maximum)
        table.append([dimension, str(d.count), str(d.missing), *(_number(n, digits) for n in numbers)])
        bars.append(bar_chart(d.histogram, unicode=unicode))
    bars[0] = "from min to max"
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)), bar]
        )
        for line, bar in zip(table, bars, strict=True)
    ]
    return "\n".join(line.rstrip() for line in [*lines, *_failures(rows)])


def bar_chart(histogram: Sequence[int], *, unicode: bool = True) -> str:
    """Counts as one character each; anything above zero is visible."""
    bars = BARS if unicode else PLAIN_BARS
    top = max(histogram, default=0) or 1
    return "".join(bars[-(-count * (len(bars) - 1) // top)] for count in histogram)


def decimals(low: float, high: float) -> int:
    """Digits after the point that tell scores in [low, high] apart."""
    largest = max(abs(low), abs(high))
    return 1 if not largest < 20 else 2 if largest >= 2 else 4


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _failures(rows: Sequence[Row]) -> list[str]:
    failed = [row for row in rows if row.get("error")]
    if not failed:
        return []
    kinds = Counter(_reason(row) for row in failed)
    example = {reason: row["image"] for row in reversed(failed) for reason in [_reason(row)]}
    lines = [f"{len(failed)} of {len(rows)} pictures have no complete score:"]
    for reason, count in kinds.most_common(8):
        more = f" (and {count - 1} more)" if count > 1 else ""
        lines.append(f"  {example[reason]}{more}: {reason}")
    if len(kinds) > 8:
        lines.append(f"  and {len(kinds) - 8} other reasons; they are in the error column")
    return ["", *lines]


def _reason(row: Mapping[str, object]) -> str:
    """The error without the name of the file, so that equal ones can be counted together."""
    return str(row["error"]).removeprefix(f"{row['image']}: ")
