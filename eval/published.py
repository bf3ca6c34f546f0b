"""Published figures beside measured ones.

A file of them is YAML:

    source: where the figures stand
    about: what is not known of how they were made (optional)
    columns: {name in the table: our dimension, or null where nothing here measures it}
    rows: {name of a model in the comparison: [one figure for each column]}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "published"
_KEYS = {"source", "about", "columns", "rows"}


def read_published(name: str) -> dict[str, Any]:
    """A file of published figures.

    Args:
        name: Its path, or the name of one that is shipped in `eval/published`.

    Raises:
        ValueError: It is missing or malformed; the message says where.
    """
    path = Path(name)
    if not path.is_file():
        path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ValueError(f"published: {name} is no file and none of those shipped: {shipped}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"published: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not {"source", "columns", "rows"} <= content.keys() <= _KEYS:
        raise ValueError(f"published: {path} needs the keys source, columns and rows, and may have about")
    for row, figures in content["rows"].items():
        if len(figures) != len(content["columns"]):
            raise ValueError(
                f"published: {path}, {row} has {len(figures)} figures for {len(content['columns'])} columns"
            )
    return {"about": "", **content}


def table(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Published figures and ours, row by row.

    Returns:
        `{"source", "about", "columns": [...], "rows": [{"name", "cells": [{"published", "measured"}]}]}`, the
        models of the comparison first, then published ones that it does not have; either figure may be None.
        None where the comparison has no published figures.
    """
    published = results.get("published")
    if not published:
        return None
    measured = {model["name"]: model["distribution"] for model in results["models"]}
    rows = []
    for name in dict.fromkeys([*measured, *published["rows"]]):
        figures = published["rows"].get(name, [None] * len(published["columns"]))
        ours = measured.get(name, {})
        cells = [
            {"published": figure, "measured": ours.get(dimension, {}).get("mean")}
            for figure, dimension in zip(figures, published["columns"].values(), strict=True)
        ]
        rows.append({"name": name, "cells": cells})
    return {
        "source": published["source"],
        "about": published["about"],
        "columns": list(published["columns"]),
        "rows": rows,
    }


def as_text(results: Mapping[str, Any]) -> str:
    """The table for a terminal: published figure / ours; empty without one."""
    found = table(results)
    if found is None:
        return ""
    head = ["", *found["columns"]]
    body = [
        [row["name"], *(f"{_figure(c['published'])} / {_figure(c['measured'])}" for c in row["cells"])]
        for row in found["rows"]
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in [head, *body]]
    return "\n".join([f"published / measured here ({found['source']})", *(line.rstrip() for line in lines)])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
