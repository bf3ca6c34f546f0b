"""The page of UniSim-Bench in a real browser, and what it takes from the record and from the paper."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.unisim.agreement import STRONGEST, in_words, maps
from eval.unisim.page import write_pages
from eval.unisim.published import AGREEMENT, ROWS, TRAINED_ON
from eval.unisim.readers import READERS
from eval.unisim.record import AVERAGES, CORE, Tau
from eval.unisim.samples import Sample
from tests.eval.unisim.planted import ENCODER, PIXELS, SCENES, ask, write_bench

ODD = '<i>odd</i> & "more"'


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all tasks, with a broken model, a picture that is missing, and `nafc` of 2 to 4 pictures."""
    folder = tmp_path_factory.mktemp("page")
    others = [f"{name}.png" for name in SCENES]
    choose = [
        Sample(f"{n}/{i}", "nafc", tuple(others[:n]), ("a penguin",), 0) for n in (2, 3, 4) for i in (0, 1)
    ]
    tasks = ["img_2afc", "it_2afc", "text_2afc", "iqa", "paa", "ooo", "ir", "nafc"]
    write_bench(folder / "m", tasks, nafc=choose)  # type: ignore[arg-type]
    write_bench(folder / "m", ["iqa"], dataset="kadid")
    twice = [ENCODER, ENCODER | {"name": "once-more", "group": "general"}, PIXELS]
    broken = {"name": "gone", "kind": "encoder", "path": "nowhere"}
    assert ask(folder / "m", folder / "out", [*twice, broken], "--title", ODD) == 3
    return folder / "out"


@pytest.fixture
def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_alone_and_fits_a_phone_in_both_themes(browser: Any, out: Path, scheme: str):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: complaints.append(request.url) if request.url[:4] == "http" else None)
    page.goto((out / "unisim.html").as_uri())
    assert page.get_attribute("html", "data-theme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.locator(".scroll").first.focus()
    assert page.evaluate("document.activeElement.className") == "scroll"
    context.close()
    assert complaints == []


def test_the_page_shows_what_was_measured_published_and_missing(
    browser: Any, out: Path, record: dict[str, Any]
):
    page = browser.new_page()
    page.goto((out / "unisim.html").as_uri())
    assert page.text_content("h1") == ODD and page.locator("i", has_text="odd").count() == 0
    text = "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
    rows = page.eval_on_selector_all("section:first-of-type tbody:not(.apart) tr", text)
    assert [row[0].split("\n")[0] for row in rows] == [
        "pocket-clip",
        "once-more",
        "floor",
        "gone",
        "Guessing",
    ]
    first = record["models"][0]
    for at, task in enumerate(first["tasks"], start=1):
        low, high = (f"{100 * end:.1f}" for end in first["tasks"][task]["interval"])
        assert rows[0][at].split("\n")[0].startswith(f"{100 * first['tasks'][task]['accuracy']:.1f}")
        assert rows[0][at].endswith(f"{low} to {high}")
    assert rows[3][1:] == ["–"] * (len(rows[3]) - 1) and rows[4][1] == "50.0" and rows[4][6] == "33.3"
    published = page.eval_on_selector_all("#published tr", text)
    assert "Published, arXiv 2412.10594. Published rows are of the same data sets" in published[0][0]
    assert "img_2afc/nights" in published[0][0] and "not in the paper" in published[0][0]
    row = next(row for row in published if row[0].startswith("UniSim ViT-L/14"))
    assert row[1:5] == ["81.3", "80.2", "92.9", "87.0"] and "85.3" in row and "48.8" in row
    notes = page.text_content(".notes")
    assert "gone answered nothing more" in notes and "pixels say nothing about a text" in notes
    assert "kadid †" in page.text_content("#detail-iqa + .scroll thead")
    label = page.get_attribute("svg.chart", "aria-label")
    counts = record["models"][0]["datasets"][-1]["by_choices"]
    said = ", ".join(f"{100 * counts[n]['accuracy']:.0f} % of {n}" for n in ("2", "3", "4"))
    assert f": pocket-clip {said}; once-more {said}" in label
    page.close()


def test_a_map_colours_by_tau_and_leaves_out_an_order_of_two():
    def tau(value: float | None, n: int, group: str | None = None, second: Any = "iqa") -> dict[str, Any]:
        return vars(Tau(group, "img_2afc", second, value, None, n, None))

    few = [tau(1.0, 2), tau(None, 4, second="ooo"), tau(-0.5, 2, "general")]
    assert [title for title, *_ in maps({"tau": few})] == [
        "Published, general-purpose models",
        "Published, specialised models",
    ]
    title, tasks, rows = next(
        iter(maps({"tau": [*few, tau(-0.5, 4, second="paa"), tau(0.0, 3, second="ir")]}))
    )
    assert (title, tasks) == ("All models", ["img_2afc", "paa", "ooo", "ir"])
    assert rows[0][0] is None and rows[1][0] == rows[0][1] is not None
    shown = [(one.text, one.tone, one.strength, one.note) for one in rows[0][1:] if one]
    assert shown == [
        ("−0.50", "against", STRONGEST / 2, "n 4"),
        ("–", "none", 0, "n 4"),
        ("0.00", "none", 0, "n 3"),
    ]
    assert in_words(tasks, rows) == "Most alike are img_2afc and ir (0.00), least img_2afc and paa (−0.50)."


def test_published_averages_are_those_of_their_tasks():
    known = set(READERS)
    assert known >= TRAINED_ON and len(TRAINED_ON) == 10
    for row in ROWS:
        assert set(row.averages) <= set(AVERAGES)
        if set(row.tasks) == set(CORE) and "core" in row.averages:
            # printed with one decimal, each
            assert sum(row.tasks.values()) / 4 == pytest.approx(row.averages["core"], abs=0.1001)
    assert all(len(one.tau) == 6 and max(map(abs, one.tau.values())) <= 1 for one in AGREEMENT)
    # of five models without ties tau is a multiple of 0.2
    assert all(5 * value == pytest.approx(round(5 * value)) for value in AGREEMENT[1].tau.values())


def test_a_run_of_other_data_sets_says_that_it_cannot_be_compared(tmp_path: Path, record: dict[str, Any]):
    kept = [at for at, part in enumerate(record["manifests"]) if part["dataset"] != "kadid"]
    record["manifests"] = [record["manifests"][at] for at in kept]
    for model in record["models"]:
        model["datasets"] = [model["datasets"][at] for at in kept]
    write_pages(record, tmp_path)
    assert "cannot be compared with the rows above" in (tmp_path / "unisim.html").read_text()
