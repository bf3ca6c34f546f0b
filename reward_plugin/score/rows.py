"""The row of one picture: what is printed, written and read back.

    {"image": PATH, "prompt": TEXT, EXTRA..., DIMENSION: number | null, ...,
     "error": TEXT | null, "scored_by": TEXT}

`prompt` is there where the picture has one. Scores are the shortest decimals that give the same float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from reward_plugin.errors import ConfigError
from reward_plugin.images import ENCODED
from reward_plugin.score.inputs import Item
from reward_plugin.types import ScoreTable

Row: TypeAlias = dict[str, Any]

#: Keys that this command writes itself.
OWN_KEYS = ("image", "prompt", "error", "scored_by")


def make_rows(items: Sequence[Item], table: ScoreTable, scored_by: str) -> list[Row]:
    """One row for each item of a batch and its scores."""
    return [
        {
            "image": item.image,
            **({} if item.prompt is None else {"prompt": item.prompt}),
            **item.extra,
            **{name: _number(value) for name, value in zip(table.dimensions, scores, strict=True)},
            # a server, which gets bytes, has no name for them
            "error": error and error.replace(f"{ENCODED}: ", f"{item.image}: ", 1),
            "scored_by": scored_by,
        }
        for item, scores, error in zip(items, table.values, table.errors, strict=True)
    ]


def recovered(row: Row, item: Item) -> Row:
    """A row that was read back, with the types that a CSV file has lost; its item knows all but scores."""
    texts = {key: value for key, value in row.items() if isinstance(value, str) and key not in OWN_KEYS}
    return row | {key: _number_or_text(text) for key, text in texts.items()} | dict(item.extra)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(str(value))


def columns_of(items: Iterable[Item], dimensions: Sequence[str]) -> list[str]:
    """Every key of the items' rows, in order.

    Raises:
        ConfigError: a list brings a key that this command writes.
    """
    extra = extra_keys(items)
    for key in extra:
        if key in dimensions or key in OWN_KEYS:
            raise ConfigError(f"a list of pictures has a key {key!r}, which is written here; rename it there")
    return ["image", "prompt", *extra, *dimensions, "error", "scored_by"]


def extra_keys(items: Iterable[Item]) -> list[str]:
    """Keys that lists bring along, in the order in which they appear."""
    return list(dict.fromkeys(key for item in items for key in item.extra))


def dimensions_of(rows: Sequence[Row], extra: Iterable[str]) -> list[str]:
    """The scores' names in rows that were read back, whose items bring the keys `extra`."""
    texts = {key for row in rows for key, value in row.items() if not isinstance(value, float | int | None)}
    other = {*OWN_KEYS, *extra, *texts}
    return list(dict.fromkeys(key for row in rows for key in row if key not in other))


def scores_of(rows: Sequence[Mapping[str, Any]], dimension: str) -> np.ndarray:
    """float64 [N], NaN where missing."""
    values = [row.get(dimension) for row in rows]
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
