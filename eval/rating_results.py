"""The record of rated sets: `results.json`, from which tables and page are drawn.

Schema `eval.rating`, version 1:

    schema, version, title, created, settings, versions
    scored_by    what made the scores
    confidence   coverage of the intervals
    columns      every dimension of the scorers
    sets         [{name, data, images, sha256, dimension, scale, rows, published_rows, rated, left_out, notes,
                   problem, unusable: [{where, image, reason}], repeated: [{image, ratings, contradictory}],
                   published: {model: [srcc, plcc]},
                   results: [{column, missing, reasons: [{reason, count, image}], points: [[score, rating]],
                              and the fields of eval.correlation.Agreement}]}]

`rated` counts the entries that are compared, `n` of a result those that have a score besides; the difference
is `missing`, and `reasons` says why. `points` are at most `POINTS` of the n pairs, for the plot. What is
undefined is null, with its reason in `undefined` or `unfitted`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from eval.correlation import agreement
from eval.metrics import Bootstrap
from eval.rating_config import RatingConfig
from eval.rating_data import RatingData
from eval.rating_sets import DIMENSIONS, SETS
from flow_grpo.log import versions
from reward_plugin.score.rows import Row

SCHEMA, VERSION = "eval.rating", 1
#: Pairs that a plot shows.
POINTS = 600


def build(
    config: RatingConfig,
    sets: Sequence[RatingData],
    rows: Mapping[str, Row],
    columns: Sequence[str],
    scored_by: str,
) -> dict[str, Any]:
    """Assemble the record.

    Args:
        config: What was asked for.
        sets: What was read.
        rows: Path of a picture -> its row.
        columns: The scorers' dimensions.
        scored_by: What made the scores.

    Raises:
        ValueError: `columns` of the config names a dimension that no scorer has.
    """
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": config.title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": _settings(config),
        "versions": versions(),
        "scored_by": scored_by,
        "confidence": config.bootstrap.confidence,
        "columns": list(columns),
        "sets": [_set(config, data, rows, columns) for data in sets],
    }


def complete(results: Mapping[str, Any]) -> bool:
    """Whether every entry was used, every score is there and every figure is defined."""
    return not any(
        part["problem"]
        or part["unusable"]
        or not part["results"]
        or any(found["missing"] or found["undefined"] or found["unfitted"] for found in part["results"])
        for part in results["sets"]
    )


def compared(
    columns: Sequence[str], dimension: str | None, chosen: Sequence[str] | None = None, every: bool = False
) -> list[str]:
    """The dimensions that are compared with a set's ratings.

    Of a rater of all three, the one that the set rates; of other scorers, which have no word for what they
    rate, all of theirs.

    Args:
        columns: All of them, such as iaa, iqa, ista, tuned_iaa, laion_aesthetic.
        dimension: What the set rates; None for unknown.
        chosen: What the user wants instead.
        every: All of them.
    """
    if chosen is not None:
        for name in chosen:
            if name not in columns:
                raise ValueError(
                    f"columns: no scorer has the dimension {name!r}; there are {', '.join(columns)}"
                )
        return list(chosen)
    if every or dimension is None:
        return list(columns)
    kinds = {name: name.rsplit("_", 1)[-1] for name in columns}
    return [name for name in columns if kinds[name] == dimension or kinds[name] not in DIMENSIONS]


def _set(
    config: RatingConfig, data: RatingData, rows: Mapping[str, Row], columns: Sequence[str]
) -> dict[str, Any]:
    known = SETS.get(data.name)
    names = compared(columns, data.place.dimension, config.columns.get(data.name), config.all_dimensions)
    return {
        "name": data.name,
        "data": data.place.data,
        "images": data.place.images,
        "sha256": data.sha256,
        "dimension": data.place.dimension,
        "scale": list(known.scale) if known else None,
        "rows": data.rows,
        "published_rows": known.rows if known else None,
        "rated": len(data.rated),
        "left_out": data.left_out,
        "notes": list(data.notes),
        "problem": data.problem,
        "unusable": [asdict(entry) for entry in data.unusable],
        "repeated": [asdict(entry) | {"contradictory": entry.contradictory} for entry in data.repeated],
        "published": {model: list(pair) for model, pair in known.published.items()} if known else {},
        "results": [] if data.problem else [_result(name, data, rows, config.bootstrap) for name in names],
    }


def _result(column: str, data: RatingData, rows: Mapping[str, Row], bootstrap: Bootstrap) -> dict[str, Any]:
    scores, ratings = [], []
    reasons: dict[str, dict[str, Any]] = {}
    for entry in data.rated:
        row = rows[entry.path]
        score = row.get(column)
        if score is None:
            reason = str(row.get("error") or f"its row has no {column}").removeprefix(f"{row['image']}: ")
            reasons.setdefault(reason, {"reason": reason, "count": 0, "image": entry.image})["count"] += 1
        else:
            scores.append(float(score))
            ratings.append(entry.rating)
    x, y = np.array(scores, dtype=np.float64), np.array(ratings, dtype=np.float64)
    found = agreement(x, y, bootstrap)
    shown = np.random.default_rng(bootstrap.seed).permutation(len(x))[:POINTS]
    return {
        "column": column,
        **found.to_dict(),
        "missing": len(data.rated) - found.n,
        "reasons": sorted(reasons.values(), key=lambda reason: -reason["count"]),
        "points": [[float(f"{a:.5g}"), float(f"{b:.5g}")] for a, b in zip(x[shown], y[shown], strict=True)],
    }


def _settings(config: RatingConfig) -> dict[str, Any]:
    settings = asdict(config)
    settings["token_file"] = None if config.token_file is None else str(config.token_file)
    return settings
