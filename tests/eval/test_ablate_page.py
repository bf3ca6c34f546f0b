"""An ablation's page: which variants are on the front, what is linked, and that a row finds its marks."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.ablate_page import write_page
from eval.ablate_plots import Point, color_steps, pareto_front, whiskers
from eval.ablate_table import mean_curve, summarise
from eval.plots import RAMP


def run(name: str, seed: int, gains: dict[str, float], **changes: Any) -> dict[str, Any]:
    summary = {
        dimension: {"base_mean": 50.0, "tuned_mean": 50 + gain, "difference": gain, "relative": gain / 50}
        for dimension, gain in gains.items()
    }
    return {
        "name": f"{name}/seed{seed}",
        "combination": name,
        "variants": {"weights": name},
        "seed": seed,
        "overrides": {"reward.weights": {"iaa": 1.0}},
        "weights": {"iaa": 0.5, "iqa": 0.5},
        "state": "done",
        "reason": None,
        "seconds": {"train": 1.0},
        "iterations": 4,
        "kept_iteration": 4,
        "alarms": ["saturation"] if name == "both" else [],
        "summary": summary,
        "curves": {"reward": {"steps": [0.0, 4.0], "values": [50.0, 50.0 + gains["reward"]]}},
        **changes,
    }


def record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    by_name = itertools.groupby(rows, key=lambda row: row["combination"])
    return {
        "title": "Weights & <measures>",
        "created": "2026-11-28T00:00:00+00:00",
        "versions": {"torch": "2"},
        "confidence": 0.95,
        "settings": {"columns": ["adherence"], "reference": "both"},
        "runs": rows,
        "variants": [summarise(list(group), 0.95) for _, group in by_name],
    }


ROWS = [
    run("both", 0, {"reward": 8.0, "iaa": 4.0, "iqa": 4.0, "adherence": -1.0}),
    run("both", 1, {"reward": 6.0, "iaa": 4.0, "iqa": 2.0, "adherence": -2.0}),
    run("low", 0, {"reward": 1.0, "iaa": 1.0, "iqa": 0.5, "adherence": -3.0}),
    run("low", 1, {"reward": 0.0}, state="failed", reason="boom <b>", summary={}, curves={}),
]


def test_the_front_is_what_nothing_is_better_than():
    draw = np.random.default_rng(0)
    for _ in range(20):
        x, y = draw.integers(0, 6, (2, 12)).tolist()
        front = pareto_front(x, y)
        for place in range(12):
            beaten = any(
                x[o] >= x[place] and y[o] >= y[place] and (x[o], y[o]) != (x[place], y[place])
                for o in range(12)
            )
            assert (place in front) is not beaten
        assert [x[place] for place in front] == sorted(x[place] for place in front)
    assert pareto_front([1.0], [2.0]) == [0]


def test_intervals_go_through_their_point():
    x, y = {"mean": -2.0, "low": -3.0, "high": -1.0}, {"mean": 5.0, "low": 4.0, "high": 7.0}
    assert whiskers(Point(1, "a", x, y)) == [((-3, -1), (5, 5)), ((-2, -2), (4, 7))]
    assert whiskers(Point(1, "a", {**x, "low": None, "high": None}, y)) == [((-2, -2), (4, 7))]


def test_colours_span_what_is_known():
    assert color_steps([2.0, None, 12.0]) == pytest.approx([2, 4, 6, 8, 10, 12])
    assert len(color_steps([None])) == len(RAMP) + 1 and color_steps([3.0])[0] == 3.0


def test_a_curve_is_the_mean_of_the_seeds_that_got_so_far():
    first, second = (
        {"steps": [0.0, 2.0], "values": [1.0, 3.0]},
        {"steps": [0.0, 2.0, 4.0], "values": [3.0, 5.0, 9.0]},
    )
    assert mean_curve([first, None, second]) == {"steps": [0.0, 2.0, 4.0], "mean": [2.0, 4.0, 9.0]}
    assert mean_curve([]) == {"steps": [], "mean": []}


def test_the_page_says_what_is_there_and_links_the_runs(tmp_path: Path):
    text = write_page(record(ROWS), tmp_path).read_text()
    assert "Weights &amp; &lt;measures&gt;" in text and "3 of 4 runs are done, 1 failed" in text
    assert "low/seed1: boom &lt;b&gt;" in text and "+7.0 (-5.7 to +19.7)" in text
    links = set(re.findall(r'href="([^"]+/eval/[^"]+)"', text))
    assert links == {
        f"{name}/eval/{page}"
        for name in ("both/seed0", "both/seed1", "low/seed0")
        for page in ("report.html", "gallery/index.html")
    }
    assert "on the front: both" in text and "https://" not in text and "src=" not in text
    assert 'data-variant="2"' in text and "saturation" in text


def test_where_weights_differ_dimensions_are_set_against_each_other(tmp_path: Path):
    rows = [
        {**row, "weights": {"iaa": 1.0, "iqa": 0.0} if row["combination"] == "low" else row["weights"]}
        for row in ROWS
    ]
    text = write_page(record(rows), tmp_path).read_text()
    assert "compare dimensions, not the reward" in text and "of both</th>" not in text
    assert (
        "Aesthetics (IAA) against Quality (IQA)" in text
        and "var(--ramp-0)" in text
        and "var(--ramp-4)" in text
    )
    assert "Prompt adherence: -6.0 %" in text


def test_nothing_done_yet_is_a_page_too(tmp_path: Path):
    rows = [{**row, "state": "open", "summary": {}, "curves": {}} for row in ROWS]
    text = write_page(record(rows), tmp_path).read_text()
    assert "0 of 4 runs are done" in text and "<figure>" not in text


def test_a_row_of_the_table_keeps_its_marks_in_sight(browser: Any, tmp_path: Path):
    path = write_page(record(ROWS), tmp_path)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    opacity = (
        "[...document.querySelectorAll('g[id*=\"-variant-\"]')].map(g => [g.id, getComputedStyle(g).opacity])"
    )
    marks = page.evaluate(opacity)
    assert len(marks) == 4 and {shade for _, shade in marks} == {"1"}
    page.focus('tr[data-variant="2"]')
    for name, shade in page.evaluate(opacity):
        assert (float(shade) == 1) is name.endswith("-variant-2"), name
    page.mouse.move(5, 5)
    page.focus(".scroll")
    assert {shade for _, shade in page.evaluate(opacity)} == {"1"}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not errors
    page.close()
