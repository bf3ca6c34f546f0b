"""What people and spreadsheets read of a run: `table.md`, `table.csv` and the page, all from the record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.unisim.record import AVERAGES
from eval.unisim.samples import TASKS
from flow_grpo.files import replacing

#: Task -> how tables call it.
TITLES = {
    "img_2afc": "Img-2AFC",
    "it_2afc": "IT-2AFC",
    "text_2afc": "Text-2AFC",
    "iqa": "IQA",
    "paa": "PAA",
    "ooo": "OOO",
    "ir": "IR",
    "nafc": "NAFC",
}
AVERAGE_TITLES = {"core": "average", "ood": "OOD average", "all": "all seven"}
COLUMNS = (
    *("model", "kind", "group", "task", "dataset", "technique", "choices", "accuracy", "low", "high"),
    *("right", "answered", "unanswered", "left_out", "chance", "skipped"),
)


def write_tables(record: Mapping[str, Any], out: Path) -> None:
    """Write the tables and the page into `out`."""
    from eval.unisim.page import write_pages

    for name, text in (("table.csv", table_csv(record)), ("table.md", table_markdown(record))):
        with replacing(out / name) as beside:
            beside.write_text(text, encoding="utf-8")
    write_pages(record, out)


def table_csv(record: Mapping[str, Any]) -> str:
    """A row for each model, data set and technique; of nafc also for each number of pictures."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(record))
    return stream.getvalue()


def _rows(record: Mapping[str, Any]) -> Iterator[list[Any]]:
    for model in record["models"]:
        for part, cell in zip(record["manifests"], model["datasets"], strict=True):
            place = [model["name"], model["kind"], model["group"], cell["task"], cell["dataset"]]
            last = [cell["left_out"], part["chance"], cell["skipped"]]
            for technique, counts in (cell["by_technique"] or {cell["technique"]: cell}).items():
                yield [*place, technique, None, *_figures(counts), *last]
            for choices, counts in cell["by_choices"].items():
                yield [*place, cell["technique"], choices, *_figures(counts), None, 1 / int(choices), None]


def _figures(counts: Mapping[str, Any]) -> list[Any]:
    interval = counts["interval"] or (None, None)
    numbers = (counts["accuracy"], *interval)
    rounded = [None if number is None else round(number, 6) for number in numbers]
    return [*rounded, counts["right"], counts["answered"], counts["unanswered"]]


def table_markdown(record: Mapping[str, Any]) -> str:
    """Tasks and averages, then data sets, in percent with their intervals; then what is missing."""
    tasks = [task for task in TASKS if any(part["task"] == task for part in record["manifests"])]
    lines = [f"# {record['title']}", ""]
    heads = [TITLES[task] for task in tasks] + [AVERAGE_TITLES[name] for name in AVERAGES]
    lines += _table(
        ["model", *heads],
        [
            [
                model["name"],
                *(_percent(model["tasks"][task]) for task in tasks),
                *(_percent(model["averages"][name]) for name in AVERAGES),
            ]
            for model in record["models"]
        ],
    )
    for task in tasks:
        at = [index for index, part in enumerate(record["manifests"]) if part["task"] == task]
        heads = [record["manifests"][index]["dataset"] for index in at]
        rows = []
        for model in record["models"]:
            technique = model["tasks"][task]["technique"]
            name = model["name"] if technique is None else f"{model['name']} ({technique})"
            rows.append([name, *(_percent(model["datasets"][index]) for index in at)])
        lines += ["", f"## {TITLES[task]}", "", *_table(["model", *heads], rows)]
    missing = list(report(record))
    if missing:
        lines += ["", "## Missing", "", *(f"* {line}" for line in missing)]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _percent(figure: Mapping[str, Any]) -> str:
    """`72.6 [71.3, 73.8]`; a mean over fewer parts than wanted is in italics."""
    if figure["accuracy"] is None:
        return ""
    text = f"{100 * figure['accuracy']:.1f}"
    if figure["interval"] is not None:
        low, high = figure["interval"]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"*{text}*" if figure.get("missing") else text


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know about what is not in the figures, one line each."""
    yield from record["problems"]
    for model in record["models"]:
        if model["problem"]:
            yield f"{model['name']} answered nothing more: {model['problem']}"
        skipped: dict[str, list[str]] = {}
        for cell in model["datasets"]:
            where = f"{cell['task']}/{cell['dataset']}"
            if cell["skipped"] is not None and cell["skipped"] != model["problem"]:
                skipped.setdefault(cell["skipped"], []).append(where)
            for reason in cell["reasons"]:
                yield (
                    f"{model['name']}, {where}: {reason['count']} of {cell['questions']} questions are left "
                    f"out: {reason['reason']} (the first is {reason['example']})"
                )
            if cell["unanswered"]:
                yield (
                    f"{model['name']}, {where}: no choice could be read in {cell['unanswered']} of "
                    f"{cell['questions']} answers; they count as wrong"
                )
        for reason, places in skipped.items():
            yield f"{model['name']} is not asked {', '.join(places)}: {reason}"
