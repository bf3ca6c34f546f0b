"""`unisim.html`: what people look at of a run, all from the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import markupsafe

from eval.pages import NO_VALUE, footer, templates
from eval.unisim import published
from eval.unisim.agreement import in_words, maps
from eval.unisim.curve import choices_curve
from eval.unisim.readers import READERS
from eval.unisim.record import AVERAGES
from eval.unisim.samples import TASKS
from eval.unisim.tables import AVERAGE_TITLES, TITLES, report
from flow_grpo.files import replacing

#: Task -> what is asked in it, for the head of its table.
ASKED = {
    "img_2afc": "Which of two pictures is closer to a reference?",
    "it_2afc": "Which of two pictures fits the text better?",
    "text_2afc": "Which of two texts fits the picture better?",
    "iqa": "Which of two pictures has the higher quality?",
    "paa": "Which of two pictures has more of an attribute?",
    "ooo": "Which of three pictures does not belong?",
    "ir": "Which pictures of a gallery show what the query shows? Mean of both mAP.",
    "nafc": "Which of N pictures fits the text best?",
}


def write_pages(record: Mapping[str, Any], out: Path) -> None:
    """Write the page into `out`, whole or not at all."""
    tasks = [task for task in TASKS if any(part["task"] == task for part in record["manifests"])]
    page = (
        templates()
        .get_template("unisim.html.j2")
        .render(
            record=record,
            heads=[TITLES[task] for task in tasks] + [AVERAGE_TITLES[name] for name in AVERAGES],
            rows=list(_rows(record, tasks)),
            guessing=[_chance(record, task) for task in tasks] + [NO_VALUE] * len(AVERAGES),
            published=list(_published(tasks)),
            source=published.SOURCE,
            comparable=_of_the_paper(record),
            maps=list(_maps(record)),
            measured=any("Published" not in title for title, *_ in maps(record)),
            curves=list(_curves(record)),
            details=[_detail(record, task) for task in tasks],
            missing=list(report(record)),
            percent=f"{100 * record['confidence']:g} %",
            footer=footer(record),
        )
    )
    with replacing(out / "unisim.html") as beside:
        beside.write_text(page, encoding="utf-8")


def _rows(record: Mapping[str, Any], tasks: list[Any]) -> Iterator[dict[str, Any]]:
    """Models, with a cell for each task and average; the highest whole mean of a column is marked."""
    cells = [
        [_cell(model["tasks"].get(task)) for task in tasks]
        + [_cell(model["averages"].get(name)) for name in AVERAGES]
        for model in record["models"]
    ]
    for column in zip(*cells, strict=True):
        whole = [cell for cell in column if cell["value"] is not None and not cell["part"]]
        if len(whole) > 1:
            highest = max(cell["value"] for cell in whole)
            for cell in whole:
                cell["best"] = cell["value"] == highest
    for model, found in zip(record["models"], cells, strict=True):
        about = " · ".join(filter(None, (model["kind"], model["group"])))
        yield {"name": model["name"], "about": about, "problem": model["problem"], "cells": found}


def _cell(figure: Mapping[str, Any] | None) -> dict[str, Any]:
    """A figure as text; `part` where it is a mean over fewer data sets than wanted."""
    value = figure["accuracy"] if figure else None
    lacking = list(figure["missing"]) if figure else []
    return {
        "value": value,
        "text": _percent(value),
        "interval": _interval(figure["interval"] if figure and value is not None else None),
        "part": bool(lacking) and value is not None,
        "lacking": ", ".join(lacking),
        "best": False,
    }


def _chance(record: Mapping[str, Any], task: str) -> str:
    """What guessing gives on the mean of a task's data sets."""
    found = [part["chance"] for part in record["manifests"] if part["task"] == task]
    return NO_VALUE if None in found else _percent(sum(found) / len(found))


def _published(tasks: list[Any]) -> Iterator[dict[str, Any]]:
    for row in published.ROWS:
        values = [row.tasks.get(task) for task in tasks] + [row.averages.get(name) for name in AVERAGES]
        if any(value is not None for value in values):
            texts = [NO_VALUE if value is None else f"{value:.1f}" for value in values]
            yield {"name": row.model, "about": f"{row.group} · {row.source}", "cells": texts}


def _of_the_paper(record: Mapping[str, Any]) -> str:
    """Whether published figures may stand beside those of this run, in a sentence."""
    names = [f"{part['task']}/{part['dataset']}" for part in record["manifests"] if part["task"] != "nafc"]
    wanted = {name for name in READERS if not name.startswith("nafc/")}
    there = [name for name in names if name in wanted]
    if not there:
        return (
            "None of the paper's data sets is asked in this run: published rows are of other pictures and "
            "other questions, and cannot be compared with the rows above."
        )
    lacking = sorted(wanted - set(there))
    others = sorted(set(names) - wanted)
    said = (
        "Published rows are of the same data sets, not of the same questions: the published code draws "
        "pairs anew at each look."
    )
    if lacking:
        said += f" Not asked here, so that means differ: {', '.join(lacking)}."
    if others:
        said += f" Asked here and not in the paper: {', '.join(others)}."
    return said


def _maps(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for number, (title, tasks, rows) in enumerate(maps(record)):
        names = [TITLES[task] for task in tasks]
        yield {
            "id": f"map-{number}",
            "title": title,
            "names": names,
            "rows": list(zip(names, rows, strict=True)),
            "words": in_words(names, rows),
        }


def _curves(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A chart for each set of `nafc` in which the number of pictures varies."""
    for at, part in enumerate(record["manifests"]):
        counts = {
            model["name"]: model["datasets"][at]["by_choices"]
            for model in record["models"]
            if model["datasets"][at]["by_choices"]
        }
        if len({choices for found in counts.values() for choices in found}) > 1:
            svg = choices_curve(part["dataset"], counts)
            yield {"dataset": part["dataset"], "svg": markupsafe.Markup(svg)}


def _detail(record: Mapping[str, Any], task: str) -> dict[str, Any]:
    """A task's table: a column for each data set, a row for each model that was asked any of them."""
    at = [index for index, part in enumerate(record["manifests"]) if part["task"] == task]
    parts = [record["manifests"][index] for index in at]
    rows = []
    for model in record["models"]:
        cells = [model["datasets"][index] for index in at]
        if any(cell["accuracy"] is not None for cell in cells):
            rows.append(
                {
                    "name": model["name"],
                    "technique": model["tasks"][task]["technique"],
                    "other": _other_techniques(model["tasks"][task]),
                    "cells": [_small(cell, part) for cell, part in zip(cells, parts, strict=True)],
                }
            )
    heads = [
        {
            "name": part["dataset"],
            "n": part["questions"],
            "chance": _percent(part["chance"]),
            "trained": f"{task}/{part['dataset']}" in published.TRAINED_ON,
        }
        for part in parts
    ]
    return {"task": task, "title": TITLES[task], "asked": ASKED[task], "heads": heads, "rows": rows}


def _small(cell: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    ranked = cell["ranked"]
    return {
        "text": _percent(cell["accuracy"]),
        "interval": _interval(cell["interval"]),
        "share": 100 * (cell["accuracy"] or 0.0),
        "chance": None if part["chance"] is None else 100 * part["chance"],
        "more": ranked and f"medium {_percent(ranked['medium'])}, hard {_percent(ranked['hard'])}",
        "off": cell["left_out"] + cell["unanswered"],
        "skipped": cell["skipped"],
    }


def _other_techniques(score: Mapping[str, Any]) -> str:
    """The techniques that do not count, with their means."""
    names = [name for name in score["by_technique"] if name and name != score["technique"]]
    return ", ".join(f"{name} {_percent(score['by_technique'][name])}" for name in names)


def _percent(share: float | None) -> str:
    return NO_VALUE if share is None else f"{100 * share:.1f}"


def _interval(interval: Any) -> str:
    return "" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}"
