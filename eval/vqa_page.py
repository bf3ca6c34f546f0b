"""What people read of answered questions: `table.md`, `table.csv` and `vqa.html`, all from the record."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.pages import NO_VALUE, footer, templates
from eval.rating_page import listed
from eval.vqa_sets import MODELS, SOURCE
from flow_grpo.files import replacing

#: Headings of the page's tables, with the kinds of groups that each shows.
HEADINGS = {
    ("overall", "domain"): "All, and by domain",
    ("category",): "By category",
    ("criterion",): "By criterion",
    ("template",): "By question template",
}
#: Answers without a letter that the page shows; all of them are in results.json.
SHOWN = 50
COUNTS = ("n", "correct", "wrong", "unread", "missing")


def write_tables(results: Mapping[str, Any], out: Path) -> None:
    """Write the tables and the page into `out`."""
    page = (
        templates()
        .get_template("vqa.html.j2")
        .render(
            results=results,
            tables=list(_tables(results)),
            any_published=bool(models(results)),
            source=SOURCE,
            percent=f"{100 * results['confidence']:g} %",
            mean=percent(results["mean_of_domains"]),
            report=list(report(results)),
            unread=results["unread"][:SHOWN],
            footer=footer(results),
        )
    )
    for name, text in (
        ("table.csv", table_csv(results)),
        ("table.md", table_markdown(results)),
        ("vqa.html", page),
    ):
        with replacing(out / name) as beside:
            beside.write_text(text, encoding="utf-8")


def _tables(results: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]], list[str]]]:
    """Heading, rows, and the models that have a published figure in one of them."""
    for kinds, title in HEADINGS.items():
        if shown := rows(results, kinds):
            yield title, shown, [model for model in MODELS if any(model in row["published"] for row in shown)]


def rows(results: Mapping[str, Any], kinds: Collection[str]) -> list[dict[str, Any]]:
    """The groups of some kinds: shares as text in percent, `share` and `chance_at` as numbers."""
    found = []
    for group in results["groups"]:
        if group["kind"] not in kinds:
            continue
        interval = group["interval"]
        found.append(
            {name: group[name] for name in ("domain", "name", *COUNTS)}
            | {
                "accuracy": percent(group["accuracy"]),
                "interval": "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}",
                "published_reading": percent(group["published_reading"]),
                "chance": percent(group["chance"]),
                "share": 100 * (group["accuracy"] or 0.0),
                "chance_at": 100 * (group["chance"] or 0.0),
                "published": {model: f"{value:.2f}" for model, value in group["published"].items()},
            }
        )
    return found


def table_markdown(results: Mapping[str, Any]) -> str:
    """A table to paste, and below it everything that was not as it should be."""
    named = models(results)
    head = ["", "accuracy", "first character", "chance", *COUNTS, *(f"{model}, published" for model in named)]
    lines = [f"| {' | '.join(head)} |", f"| --- | {' | '.join(['---:'] * (len(head) - 1))} |"]
    for kinds in HEADINGS:
        for row in rows(results, kinds):
            name = row["name"] if kinds[-1] == "domain" else f"{row['domain']}: {row['name']}"
            interval = f" ({row['interval']})" if row["interval"] else ""
            cells = [name, row["accuracy"] + interval, row["published_reading"], row["chance"]]
            cells += [row[count] for count in COUNTS]
            cells += [row["published"].get(model, NO_VALUE) for model in named]
            lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    coverage = f"{100 * results['confidence']:g} %"
    lines += ["", f"Percent; in brackets {coverage} Wilson intervals. Answered by {results['answered_by']}."]
    if results["mean_of_domains"] is not None:
        lines.append(f"Mean of the domains: {percent(results['mean_of_domains'])}.")
    if named:
        lines.append(f"Published: {SOURCE}.")
    said = [f"* {text}" for text in report(results)]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


def table_csv(results: Mapping[str, Any]) -> str:
    """Every group, shares from 0 to 1."""
    text = io.StringIO(newline="")
    names = ["kind", "domain", "name", *COUNTS, "accuracy", "low", "high", "published_reading", "chance"]
    writer = csv.DictWriter(text, [*names, *(f"published {model}" for model in MODELS)], lineterminator="\n")
    writer.writeheader()
    for group in results["groups"]:
        low, high = group["interval"] or (None, None)
        figures = {f"published {model}": value / 100 for model, value in group["published"].items()}
        row = {name: group[name] for name in names if name in group}
        writer.writerow(row | {"low": low, "high": high} | figures)
    return text.getvalue()


def report(results: Mapping[str, Any]) -> Iterator[str]:
    """Everything that a reader of the figures has to know, one sentence each."""
    for part in results["sets"]:
        name = part["domain"]
        if part["problem"]:
            yield f"{name} could not be read: {part['problem']}"
        yield from part["notes"]
        if part["unusable"]:
            named = [f"{entry['image'] or entry['where']} ({entry['reason']})" for entry in part["unusable"]]
            count = f"{len(part['unusable'])} of {part['rows']}"
            yield f"{name}: {count} entries cannot be asked: {listed(named)}"
        if part["missing"]:
            count = f"{sum(entry['count'] for entry in part['missing'])} of {part['asked']}"
            named = [f"{entry['image']} ({entry['reason']})" for entry in part["missing"]]
            yield f"{name}: {count} questions have no answer and count nowhere: {listed(named)}"
    if results["unread"]:
        n = next(group["n"] for group in results["groups"] if group["kind"] == "overall")
        named = [f"{one['image']} ({one['problem']})" for one in results["unread"]]
        yield (
            f"in {len(results['unread'])} of {n} answers no letter could be read; they count as wrong: "
            f"{listed(named)}"
        )


def models(results: Mapping[str, Any]) -> list[str]:
    """Models of which figures were published for any of the groups."""
    return [model for model in MODELS if any(model in group["published"] for group in results["groups"])]


def percent(share: float | None) -> str:
    """A share of 0 to 1 in percent, with two decimals, as the paper prints it."""
    return NO_VALUE if share is None else f"{100 * share:.2f}"
