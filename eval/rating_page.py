"""What people read of rated sets: `table.md`, `table.csv` and `rating.html`, all from the record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from eval.correlation import Logistic
from eval.pages import NO_VALUE, footer, templates
from eval.rating_sets import MODELS, SOURCE
from eval.scatter import scatter
from flow_grpo.files import replacing

#: Names that a list of what went wrong shows; the rest is in results.json.
NAMED = 8
FIGURES = ("srcc", "plcc", "plcc_fitted", "krcc", "rmse_fitted")


def write_tables(results: Mapping[str, Any], out: Path) -> None:
    """Write the tables and the page into `out`."""
    page = (
        templates()
        .get_template("rating.html.j2")
        .render(
            results=results,
            rows=table(results),
            models=_models(results),
            source=SOURCE,
            percent=f"{100 * results['confidence']:g} %",
            plots=[plot for part in results["sets"] for plot in _plots(part)],
            reports=[(part["name"], list(report(part))) for part in results["sets"]],
            footer=footer(results),
        )
    )
    for name, text in (
        ("table.csv", table_csv(results)),
        ("table.md", table_markdown(results)),
        ("rating.html", page),
    ):
        with replacing(out / name) as beside:
            beside.write_text(text, encoding="utf-8")


def table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each set and column of scores, every number as text."""
    rows: list[dict[str, Any]] = []
    for part in results["sets"]:
        for found in part["results"] or [None]:
            row = {"set": part["name"], "first": not rows or rows[-1]["set"] != part["name"]}
            row["published"] = {model: _pair(pair) for model, pair in part["published"].items()}
            row |= {name: NO_VALUE for name in ("column", "n", "missing", "intervals", *FIGURES)}
            row["remark"] = part["problem"] or "no column of the scorers fits"
            if found is not None:
                row |= {name: _number(found[name]) for name in FIGURES}
                row |= {f"{name}_interval": _interval(found[f"{name}_interval"]) for name in ("srcc", "plcc")}
                row |= {"column": found["column"], "n": found["n"], "missing": found["missing"]}
                row["remark"] = found["undefined"] or found["unfitted"] or ""
            rows.append(row)
    return rows


def table_markdown(results: Mapping[str, Any]) -> str:
    """A table to paste, and below it everything that was not as it should be."""
    models = _models(results)
    head = ["set", "scores", "SRCC", "PLCC", "PLCC, fitted", "KRCC", "RMSE, fitted", "n", "missing"]
    lines = [
        f"| {' | '.join([*head, *(f'{model}, published' for model in models)])} |",
        f"| --- | --- | {' | '.join(['---:'] * (len(head) - 2 + len(models)))} |",
    ]
    for row in table(results):
        cells = [row["set"], row["column"], _with_interval(row, "srcc"), _with_interval(row, "plcc")]
        cells += [row[name] for name in ("plcc_fitted", "krcc", "rmse_fitted", "n", "missing")]
        cells += [row["published"].get(model, NO_VALUE) for model in models]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    coverage = f"{100 * results['confidence']:g} %"
    lines += ["", f"In brackets {coverage} bootstrap intervals. Scored by {results['scored_by']}."]
    if models:
        lines.append(f"Published: SRCC / PLCC, {SOURCE}.")
    said = [f"* {part['name']}: {text}" for part in results["sets"] for text in report(part)]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


def table_csv(results: Mapping[str, Any]) -> str:
    """Every figure in full, one row for each set and column of scores."""
    text = io.StringIO(newline="")
    ends = [f"{name}_{end}" for name in ("srcc", "plcc") for end in ("low", "high")]
    counts = ["rows", "published_rows", "rated", "unusable", "repeated"]
    published = [f"published {model} {name}" for model in MODELS for name in ("srcc", "plcc")]
    names = ["set", "column", *counts, "n", "missing", *FIGURES, *ends, "undefined", "unfitted"]
    writer = csv.DictWriter(text, [*names, *published], lineterminator="\n")
    writer.writeheader()
    for part in results["sets"]:
        common = {name: part[name] for name in counts if name not in ("unusable", "repeated")}
        common |= {"set": part["name"], "unusable": len(part["unusable"]), "repeated": len(part["repeated"])}
        for model, pair in part["published"].items():
            common |= {f"published {model} {name}": pair[i] for i, name in enumerate(("srcc", "plcc"))}
        for found in part["results"] or [{"undefined": part["problem"]}]:
            row = {name: found[name] for name in names if name in found}
            for name in ("srcc", "plcc"):
                low, high = found.get(f"{name}_interval") or (None, None)
                row |= {f"{name}_low": low, f"{name}_high": high}
            writer.writerow(common | row)
    return text.getvalue()


def report(part: Mapping[str, Any]) -> Iterator[str]:
    """Everything about a set that a reader of its figures has to know, one sentence each."""
    if part["problem"]:
        yield f"could not be read: {part['problem']}"
    yield from part["notes"]
    if part["unusable"]:
        named = [f"{entry['image'] or entry['where']} ({entry['reason']})" for entry in part["unusable"]]
        yield f"{len(part['unusable'])} of {part['rows']} entries cannot be used: {listed(named)}"
    if part["repeated"]:
        names = [entry["image"] for entry in part["repeated"]]
        treated = (
            f"{part['left_out']} later entries are left out" if part["left_out"] else "each entry counts"
        )
        yield f"{len(names)} pictures are in the file more than once, {treated}: {listed(names)}"
        against = [entry["image"] for entry in part["repeated"] if entry["contradictory"]]
        if against:
            yield f"{len(against)} of them with different ratings: {listed(against)}"
    said: dict[str, list[str]] = {}  # what is true of several columns is said once
    for found in part["results"]:
        if found["missing"]:
            why = [f"{r['count']} × {r['reason']} ({r['image']})" for r in found["reasons"]]
            count = f"{found['missing']} of {part['rated']}"
            said.setdefault(f"{count} scores are missing: {listed(why)}", []).append(found["column"])
        if found["undefined"]:
            said.setdefault(f"no correlation: {found['undefined']}", []).append(found["column"])
        elif found["unfitted"]:
            said.setdefault(f"no fit: {found['unfitted']}", []).append(found["column"])
    yield from (f"{', '.join(columns)}: {text}" for text, columns in said.items())


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - NAMED} more in results.json" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _plots(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for found in part["results"]:
        if not found["points"]:
            continue
        fit = Logistic(**found["fit"]) if found["fit"] else None
        label = f"{found['column']} against the ratings of {part['name']}: SRCC {_number(found['srcc'])}"
        drawn = len(found["points"])
        yield {
            "set": part["name"],
            "column": found["column"],
            "srcc": _number(found["srcc"]),
            "svg": markupsafe.Markup(scatter(found["points"], fit, label, found["column"])),
            "drawn": f"{drawn} of {found['n']} pictures" if drawn < found["n"] else f"{drawn} pictures",
        }


def _models(results: Mapping[str, Any]) -> list[str]:
    """Models of which figures were published for any of the sets."""
    return [model for model in MODELS if any(model in part["published"] for part in results["sets"])]


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    interval = row.get(f"{name}_interval")
    return f"{row[name]} ({interval})" if interval else row[name]


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}"


def _pair(pair: Sequence[float]) -> str:
    return " / ".join(_number(value) for value in pair)


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}".replace("-", "−")
