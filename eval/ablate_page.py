"""An ablation as a page that stands alone: what variants gained and cost, curves, and links to the runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from eval.ablate_plots import Point, color_steps, curves, trade_off
from eval.ablate_table import groups_of, interval_cell, share_cell
from eval.alarms import REWARD
from eval.pages import LABELS, footer, templates


def write_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write `index.html` into `out`, the folder of the record and the runs.

    Args:
        results: The record, as `eval.ablate_table.collect` returns it.
        out: Its folder; links to the runs are relative to it.
    """
    from flow_grpo.files import replacing

    states = [row["state"] for row in results["runs"]]
    page = (
        templates()
        .get_template("ablation.html.j2")
        .render(
            results=results,
            confidence=f"{100 * results['confidence']:g} %",
            counts={state: states.count(state) for state in ("done", "failed", "open")},
            groups=[_group(results, *entry) for entry in enumerate(groups_of(results).items())],
            unfinished=[row for row in results["runs"] if row["state"] != "done"],
            footer=footer(results),
        )
    )
    with replacing(out / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    return out / "index.html"


def _group(
    results: Mapping[str, Any], number: int, entry: tuple[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """One combination of all axes but the last: its table and charts."""
    name, variants = entry
    columns = results["settings"]["columns"]
    trained = _trained(results, variants)
    same = len({str(sorted(_weights(results, v).items())) for v in variants.values()}) == 1
    numbered = dict(enumerate(variants.items(), start=1))
    shown = {n: pair for n, pair in numbered.items() if pair[1]["seeds"]}
    charts = []
    if shown:
        gains = [(REWARD, column) for column in columns[:2]] if same else []
        pairs = gains or list(itertools.combinations(trained, 2))
        color = columns[0] if not gains and columns else None
        charts = [_trade_off(results, f"g{number}", shown, y, x, color) for y, x in pairs]
    return {
        "name": name,
        "rows": [_row(results, n, short, variant, trained) for n, (short, variant) in numbered.items()],
        "head": [_label(d) for d in trained],
        "columns": [_label(column) for column in columns],
        "charts": [chart for chart in charts if chart],
        "curves": _curves(results, f"g{number}", shown, trained),
        "same": same,
    }


def _row(
    results: Mapping[str, Any], number: int, short: str, variant: Mapping[str, Any], trained: Sequence[str]
) -> dict[str, Any]:
    columns = results["settings"]["columns"]
    runs = [row for row in results["runs"] if row["combination"] == variant["name"]]
    reference = groups_of(results)[variant["name"].rpartition("/")[0]].get(_reference(results))
    settings = runs[0]["overrides"]
    return {
        "number": number,
        "name": short,
        "settings": ", ".join(f"{key} = {value}" for key, value in settings.items()) or "the base's",
        "seeds": len(variant["seeds"]),
        "reward": interval_cell(variant, REWARD, "difference", 1.0),
        "share": share_cell(results, variant, reference),
        "trained": [interval_cell(variant, name, "difference", 1.0) for name in trained],
        "columns": [interval_cell(variant, column, "relative", 100.0) for column in columns],
        "alarms": sorted({alarm for row in runs for alarm in row["alarms"]}),
        "runs": [{"seed": row["seed"], "folder": row["name"]} for row in runs if row["state"] == "done"],
    }


def _trade_off(
    results: Mapping[str, Any],
    identity: str,
    shown: Mapping[int, tuple[str, Mapping[str, Any]]],
    y: str,
    x: str,
    color: str | None,
) -> dict[str, Any] | None:
    """A chart of two quantities; None where no variant has both."""
    trained_x = color is not None  # two trained dimensions, both in points
    scale = 1.0 if trained_x else 100.0
    points = []
    for number, (short, variant) in shown.items():
        along = _estimate(variant, x, "difference" if trained_x else "relative", scale)
        up = _estimate(variant, y, "difference", 1.0)
        shade = _estimate(variant, color, "relative", 100.0)["mean"] if color else None
        if along["mean"] is not None and up["mean"] is not None:
            points.append(Point(number, short, along, up, shade, short == _reference(results)))
    if not points:
        return None
    unit = "points" if trained_x else "%"
    svg = trade_off(
        f"{identity}-{y}-{x}", points, (f"{_label(x)}, {unit} of change", f"{_label(y)}, points gained")
    )
    ends = [f"{end:+.1f} %" for end in color_steps([point.color for point in points])] if color else []
    return {
        "title": f"{_label(y)} against {_label(x).lower() if not trained_x else _label(x)}",
        "svg": markupsafe.Markup(svg),
        "color": _label(color) if color else None,
        "ends": (ends[0], ends[-1]) if ends else None,
    }


def _curves(
    results: Mapping[str, Any],
    identity: str,
    shown: Mapping[int, tuple[str, Mapping[str, Any]]],
    trained: Sequence[str],
) -> list[dict[str, Any]]:
    """Validation while training, the mean over seeds, of the reward, what it is made of, and the columns."""
    names = dict.fromkeys([REWARD, *trained, *results["settings"]["columns"]])
    reference = next((n for n, (short, _) in shown.items() if short == _reference(results)), None)
    found = []
    for name in names:
        lines = {
            number: (data["steps"], data["mean"])
            for number, (_, variant) in shown.items()
            if (data := variant["curves"].get(name)) and data["steps"]
        }
        if lines:
            svg = curves(f"{identity}-curve-{name}", _label(name), lines, reference)
            found.append({"title": _label(name), "svg": markupsafe.Markup(svg)})
    return found


def _trained(results: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Dimensions with a weight in any of the variants, in their order."""
    weights = [_weights(results, variant) for variant in variants.values()]
    return list(dict.fromkeys(name for entry in weights for name, weight in entry.items() if weight))


def _weights(results: Mapping[str, Any], variant: Mapping[str, Any]) -> Mapping[str, float]:
    return next(row["weights"] for row in results["runs"] if row["combination"] == variant["name"])


def _reference(results: Mapping[str, Any]) -> str:
    return results["settings"]["reference"] or ""


def _estimate(variant: Mapping[str, Any], name: str, measure: str, scale: float) -> dict[str, float | None]:
    found = variant["dimensions"].get(name, {}).get(measure) or {}
    ends = {end: found.get(end) for end in ("mean", "low", "high")}
    return {end: None if value is None else scale * value for end, value in ends.items()}


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " ").capitalize())
