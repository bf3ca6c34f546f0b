"""The report: one page that stands alone (`report.html`) and a table to paste (`report.md`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from eval.curves import kept_iteration, read_curves
from eval.numbers import interval_text
from eval.pages import LABELS, Dimension, dimensions, footer, main_dimensions, templates
from eval.plots import curve, progress
from eval.published import table as published_table
from eval.sections import section
from flow_grpo.files import replacing

# Quantities of the optimisation itself, drawn after the scores where the run recorded them.
_OPTIMISATION = ("kl", "clip_fraction")
# With more models than this only the last one's pictures are in the page; the gallery has all.
_PICTURED = 3


def write_report(results: Mapping[str, Any], out: Path, run_dir: Path | None) -> Path:
    """Write `report.html` and `report.md` into `out`.

    Args:
        results: The record, as `eval.record.build` returns it.
        out: Its folder; image paths in the record are relative to it.
        run_dir: Training run whose curves are drawn; none, or one without curves: that section says so.

    Returns:
        Path of the page.
    """
    shown = dimensions(results)
    comparisons = results["comparisons"]
    sections = [
        section(results, comparison, out, len(comparisons) <= _PICTURED or comparison is comparisons[-1])
        for comparison in comparisons
    ]
    common = {
        "results": results,
        "sections": sections,
        "confidence": f"{100 * comparisons[-1]['confidence']:g} %",
        "problems": _problems(results),
        "published": published_table(results),
        "overview": _overview(results, shown),
        "prompts": len(results["prompts"]),
    }
    page = (
        templates()
        .get_template("report.html.j2")
        .render(
            **common,
            verdict=sections[-1]["verdict"],
            progress=_progress(results, shown),
            curves=_curves(run_dir, shown),
            kept=kept_iteration(run_dir) if run_dir else None,
            settings=list(flat(results["settings"])),
            footer=footer(results),
        )
    )
    markdown = templates().get_template("report.md.j2").render(**common)
    for name, text in (("report.html", page), ("report.md", markdown)):
        with replacing(out / name) as beside:
            beside.write_text(text, encoding="utf-8")
    return out / "report.html"


def _overview(results: Mapping[str, Any], shown: Sequence[Dimension]) -> dict[str, Any]:
    """One line for each model: means, differences, and what rings."""
    columns = main_dimensions(shown)
    by_model = {comparison["model"]: comparison for comparison in results["comparisons"]}
    rows = []
    for number, model in enumerate(results["models"]):
        comparison = by_model.get(model["name"])
        cells = []
        for d in columns:
            result = comparison["summary"].get(d.name) if comparison else None
            interval = result["interval"] if result else None
            cells.append(
                {
                    "mean": d.text(model["distribution"].get(d.name, {}).get("mean")),
                    "delta": d.delta(result["difference"]) if result else "",
                    "tone": d.tone(result["difference"]) if result else "flat",
                    "interval": interval_text(interval, d.digits) if interval else "",
                    "sure": interval is not None and (interval[0] > 0 or interval[1] < 0),
                }
            )
        alarms = comparison["verdict"]["alarms"] if comparison else []
        ringing = [a["dimension"].replace("_", " ") for a in alarms if a["rings"]]
        anchor = f"model-{number}" if comparison else None
        rows.append({"name": model["name"], "anchor": anchor, "cells": cells, "ringing": ringing})
    return {"columns": [d.label for d in columns], "rows": rows}


def _progress(results: Mapping[str, Any], shown: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Each judged dimension over the iterations of a run whose checkpoints were compared."""
    stepped = [model for model in results["models"] if model["step"] is not None]
    runs = Counter(model["run"] for model in stepped)
    if not runs:
        return []
    run, count = runs.most_common(1)[0]
    reference = results["models"][0]
    by_model = {comparison["model"]: comparison["summary"] for comparison in results["comparisons"]}
    charts = []
    for d in main_dimensions(shown):
        start = reference["distribution"].get(d.name, {}).get("mean")
        points = [(0, start, start, start)] if start is not None and reference["step"] is None else []
        for model in sorted((m for m in stepped if m["run"] == run), key=lambda m: m["step"]):
            result = by_model.get(model["name"], {}).get(d.name)
            if result is None or result["tuned_mean"] is None:
                continue
            low, high = result["interval"] or (result["difference"], result["difference"])
            points.append(
                (model["step"], result["tuned_mean"], result["base_mean"] + low, result["base_mean"] + high)
            )
        if count and len(points) > 1:
            charts.append({"label": d.label, "svg": markupsafe.Markup(progress(d.name, points))})
    return charts


def _curves(run_dir: Path | None, shown: Sequence[Dimension]) -> list[dict[str, Any]]:
    return [] if run_dir is None else draw_curves(run_dir, [d.name for d in main_dimensions(shown)])


def draw_curves(run_dir: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What a run recorded of these dimensions and of its optimisation, as `{label, svg}`."""
    kept = kept_iteration(run_dir)
    labels = {**LABELS, "kl": "KL to the base model", "clip_fraction": "Share of clipped ratios"}
    return [
        {
            "label": labels.get(found.name, found.name.replace("_", " ").capitalize()),
            "svg": markupsafe.Markup(curve(found, kept)),
        }
        for found in read_curves(run_dir, [*names, *_OPTIMISATION])
    ]


def _problems(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was left out, by kind: how many, and each with its reason."""
    titles = {
        "prompt": ("broken entry of the prompt file", "broken entries of the prompt file"),
        "picture": ("picture that cannot be read", "pictures that cannot be read"),
        "score": ("picture without a score", "pictures without a score"),
    }
    found: dict[str, list[str]] = {}
    for problem in results["problems"]:
        found.setdefault(problem["kind"], []).append(f"{problem['where']}: {problem['reason']}")
    return [
        {"title": f"{len(lines)} {titles[kind][len(lines) > 1]}", "lines": lines}
        for kind, lines in found.items()
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as dotted keys; what is not set is left out."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            rows.append((prefix + key, str(value)))
    return rows
