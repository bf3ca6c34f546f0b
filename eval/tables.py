"""`results.csv`: one row for each picture and metric, for whatever a page does not show."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.alarms import CLIP_DISTANCE, PIXEL_DISTANCE
from flow_grpo.files import replacing

COLUMNS = (
    *("model", "step", "prompt_index", "member", "category", "prompt", "image"),
    *("metric", "value", "reference", "difference", "error"),
)


def write_csv(results: Mapping[str, Any], out: Path) -> Path:
    """Write `results.csv`; a missing value is empty and its reason in `error`. Spreadsheets read it as it
    is.
    """
    with replacing(out / "results.csv") as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_rows(results))
    return out / "results.csv"


def _rows(results: Mapping[str, Any]) -> Iterator[list[Any]]:
    reference = results["models"][0]["name"]
    steps = {model["name"]: model["step"] for model in results["models"]}
    for sample in results["samples"]:
        base = sample["sides"][reference]["scores"]
        for name, side in sample["sides"].items():
            place = [name, steps[name], sample["prompt_index"], sample["member"], sample["category"]]
            place += [sample["prompt"], side["image"]]
            for metric, value in side["scores"].items():
                known = value is not None and base[metric] is not None
                difference = round(value - base[metric], 4) if known else None
                yield [
                    *place,
                    metric,
                    value,
                    base[metric],
                    difference,
                    side["error"] if value is None else None,
                ]
            distances = {PIXEL_DISTANCE: side["distance"]["pixels"], CLIP_DISTANCE: side["distance"]["clip"]}
            for metric, value in distances.items():
                if value is not None:
                    yield [*place, metric, value, 0.0, value, None]
