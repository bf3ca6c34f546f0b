"""What the report says of one model against the reference, every number as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from eval.alarms import PIXEL_DISTANCE, REWARD
from eval.numbers import interval_text, percent
from eval.pages import (
    NO_VALUE,
    Dimension,
    dimensions,
    main_dimensions,
    pair_id,
    sample_difference,
    scores_of,
    value_of,
)
from eval.pictures import data_uri
from eval.plots import distribution

_STRIP = 4
_PICTURE_SIDE = 256


def section(
    results: Mapping[str, Any], comparison: Mapping[str, Any], out: Path, pictures: bool
) -> dict[str, Any]:
    """Everything that the template shows of one comparison.

    Args:
        results: The record.
        comparison: One of its comparisons.
        out: The record's folder.
        pictures: Whether to put pairs of pictures into the page.
    """
    shown = [d for d in dimensions(results) if d.name in comparison["summary"]]
    rows = [_row(dimension, results, comparison) for dimension in shown]
    limit = _add_whiskers(rows)
    judged = {dimension.name for dimension in main_dimensions(shown)}
    return {
        "name": comparison["model"],
        "anchor": f"model-{[m['name'] for m in results['models']].index(comparison['model'])}",
        "verdict": comparison["verdict"],
        "rows": rows,
        "cards": [row for row in rows if row["name"] in judged],
        "axis_limit": limit,
        "strips": _strips(results, comparison, shown, out) if pictures else [],
        "distributions": _distributions(results, comparison, shown),
        "categories": _categories(comparison, shown),
    }


def _row(dimension: Dimension, results: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    result = comparison["summary"][dimension.name]
    interval = result["interval"]
    return {
        "name": dimension.name,
        "label": dimension.label,
        "role": dimension.role,
        "weight": f"{dimension.weight:.3g}" if dimension.weight is not None else "",
        "base": dimension.text(result["base_mean"]),
        "tuned": dimension.text(result["tuned_mean"]),
        "difference": dimension.delta(result["difference"]),
        "tone": dimension.tone(result["difference"]),
        "interval": interval_text(interval, dimension.digits) if interval else NO_VALUE,
        "relative": percent(result["relative"]) if result["relative"] is not None else NO_VALUE,
        "win_rate": f"{100 * result['win_rate']:.0f} %" if result["win_rate"] is not None else NO_VALUE,
        "n": result["n"],
        "missing": result["missing"],
        "effect": _effect(results, comparison["baseline"], dimension.name, result),
    }


def _effect(
    results: Mapping[str, Any], baseline: str, name: str, result: Mapping[str, Any]
) -> tuple[float, float, float] | None:
    """Lower end, mean and upper end of the difference in standard deviations of the base scores.

    In this unit rows of different dimensions can share an axis.
    """
    model = next(model for model in results["models"] if model["name"] == baseline)
    spread = model["distribution"].get(name, {}).get("std")
    if result["interval"] is None or not spread:
        return None
    low, high = result["interval"]
    return low / spread, result["difference"] / spread, high / spread


def _add_whiskers(rows: Sequence[dict[str, Any]]) -> int:
    """Give each row its effect as positions in percent of a common axis; returns where the axis ends."""
    ends = [abs(value) for row in rows if row["effect"] for value in row["effect"]]
    limit = min(9, max(1, math.ceil(max(ends, default=1.0))))
    for row in rows:
        row["whisker"] = None
        if row["effect"]:
            low, mean, high = (50.0 + 50.0 * max(-1.0, min(1.0, v / limit)) for v in row["effect"])
            row["whisker"] = {
                "low": f"{low:.1f}",
                "mean": f"{mean:.1f}",
                "width": f"{max(high - low, 1):.1f}",
            }
    return limit


def _strips(
    results: Mapping[str, Any], comparison: Mapping[str, Any], shown: Sequence[Dimension], out: Path
) -> list[dict[str, Any]]:
    """Most improved, least improved and most changed pairs, with their pictures inline."""
    baseline, model = comparison["baseline"], comparison["model"]
    reward = next(dimension for dimension in shown if dimension.name == REWARD)

    def gain(sample: Mapping[str, Any]) -> float | None:
        return sample_difference(sample, baseline, model, REWARD)

    def change(sample: Mapping[str, Any]) -> float | None:
        return value_of(sample["sides"][model], PIXEL_DISTANCE)

    def pick(key: Callable[[Mapping[str, Any]], float | None], sign: int) -> list[Mapping[str, Any]]:
        """The first few by `key`, not more than one member of a prompt."""
        known = [
            (sign * value, sample) for sample in results["samples"] if (value := key(sample)) is not None
        ]
        chosen: dict[int, Mapping[str, Any]] = {}
        for _, sample in sorted(known, key=lambda entry: -entry[0]):
            chosen.setdefault(sample["prompt_index"], sample)
        return list(chosen.values())[:_STRIP]

    def pair(sample: Mapping[str, Any]) -> dict[str, Any]:
        moved = change(sample)
        return {
            "id": pair_id(sample),
            "prompt": sample["prompt"],
            "pictures": [
                data_uri(out / sample["sides"][side]["image"], _PICTURE_SIDE) for side in (baseline, model)
            ],
            "delta": reward.delta(gain(sample)),
            "tone": reward.tone(gain(sample)),
            "change": NO_VALUE if moved is None else f"{moved:.1f} %",
        }

    choices = (
        ("Most improved", "Highest gain of the weighted reward.", pick(gain, 1)),
        ("Least improved", "Lowest gain: where to look for what was lost.", pick(gain, -1)),
        ("Most changed", "Largest distance between the pixels of a pair.", pick(change, 1)),
    )
    return [
        {"title": title, "note": note, "pairs": [pair(s) for s in found]} for title, note, found in choices
    ]


def _distributions(
    results: Mapping[str, Any], comparison: Mapping[str, Any], shown: Sequence[Dimension]
) -> list[dict[str, Any]]:
    """A histogram of both sides for each dimension, and its quartiles."""
    spread = {model["name"]: model["distribution"] for model in results["models"]}
    charts = []
    for dimension in shown:
        sides = (comparison["baseline"], comparison["model"])
        base, tuned = (scores_of(results, side, dimension.name) for side in sides)
        if not base or not tuned or dimension.role == "distance":
            continue
        svg = distribution(f"{comparison['model']}-{dimension.name}", base, tuned)
        quantiles = [spread[side].get(dimension.name, {}).get("quantiles") for side in sides]
        charts.append(
            {
                "label": dimension.label,
                "svg": markupsafe.Markup(svg),
                "quartiles": [
                    [dimension.text(value) for value in found[1:4]] if found else None for found in quantiles
                ],
            }
        )
    return charts


def _categories(comparison: Mapping[str, Any], shown: Sequence[Dimension]) -> dict[str, Any]:
    """Difference, interval and wins of every dimension that is judged, by category of prompt."""
    columns = main_dimensions(shown)
    rows = []
    for name, summary in comparison["categories"].items():
        cells = []
        for d in columns:
            result = summary[d.name]
            known = result["win_rate"] is not None
            interval = interval_text(result["interval"], d.digits) if result["interval"] else "one prompt"
            cells.append(
                {
                    "text": d.delta(result["difference"]),
                    "tone": d.tone(result["difference"]),
                    "interval": interval if known else "",
                    "wins": f"{100 * result['win_rate']:.0f} %" if known else "",
                }
            )
        rows.append({"name": name, "n": summary[REWARD]["n"], "cells": cells})
    return {"columns": [d.label for d in columns], "rows": rows}
