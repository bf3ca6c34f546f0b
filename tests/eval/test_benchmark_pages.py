"""The pages of the benchmarks in a real browser, opened from disk: complete, on a phone, in both themes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import rating_page, vqa_page
from eval.correlation import fit_logistic
from eval.metrics import Bootstrap
from eval.rating_config import RatingConfig, RatingSet
from eval.rating_data import read_ratings
from eval.rating_results import build as build_rating
from eval.scatter import scatter, ticks
from eval.vqa_config import QuestionSet, VqaBenchmarkConfig
from eval.vqa_data import read_questions
from eval.vqa_results import Answered
from eval.vqa_results import build as build_vqa

ODD = 'odd <b>"name"</b> & more.png'


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both pages: a published set with a missing and an unusable picture, and a set that is not there."""
    out = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    entries: list[dict[str, Any]] = [{"image": f"{i}.png", "gt_score": float(i % 9 + 1)} for i in range(700)]
    entries += [{"image": ODD, "gt_score": 3}, {"image": "bad.png", "gt_score": "high"}]
    (out / "KADID.json").write_text(json.dumps(entries))
    sets = {"KADID": RatingSet(str(out / "KADID.json"), "in", "iqa"), "gone": RatingSet("gone.json", "in")}
    rating = RatingConfig(sets=sets, title="Raters & <people>", bootstrap=Bootstrap(resamples=20))
    read = [read_ratings(name, place) for name, place in rating.chosen().items()]
    rows = {
        entry.path: {
            "image": entry.path,
            "iqa": None if entry.image == ODD else entry.rating + rng.normal(),
            "flat": 1.0,
            "error": f"{entry.path}: no such file" if entry.image == ODD else None,
        }
        for entry in read[0].rated
    }
    rating_page.write_tables(build_rating(rating, read, rows, ["iqa", "flat"], "unipercept@0"), out)

    question = {"question": "What?\nA. This\nB. That", "answer": "A", "category": "Distortion Type"}
    (out / "IQA.json").write_text(
        json.dumps([{"image": name, **question} for name in ("a.png", ODD, "c.png")])
    )
    vqa = VqaBenchmarkConfig(sets={"IQA": QuestionSet(str(out / "IQA.json"), "in")})
    asked = read_questions("IQA", vqa.sets["IQA"], {})
    said = {"response": "<i>hm</i>", "published": "<", "letter": None, "problem": "'<i>hm</i>' is no letter"}
    answers = [said | {"letter": "A", "published": "A"}, said, {}]
    answered = [
        Answered(one, {"image": one.path, "scored_by": "vqa@0", "error": None if row else "gone", **row})
        for one, row in zip(asked.questions, answers, strict=True)
    ]
    vqa_page.write_tables(build_vqa(vqa, [asked], [answered]), out)
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["rating.html", "vqa.html"])
def test_pages_stand_alone_and_fit_a_phone_in_both_themes(browser: Any, pages: Path, name: str, scheme: str):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: complaints.append(request.url) if request.url[:4] == "http" else None)
    page.goto((pages / name).as_uri())
    assert page.get_attribute("html", "data-theme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    # tables that are wider than the phone can be scrolled with keys
    page.locator(".scroll").first.focus()
    assert page.evaluate("document.activeElement.className") == "scroll"
    context.close()
    assert complaints == []


def test_the_rating_page_says_what_is_missing_and_what_was_published(browser: Any, pages: Path):
    page = browser.new_page()
    page.goto((pages / "rating.html").as_uri())
    assert page.text_content("h1") == "Raters & <people>"
    cells = page.eval_on_selector_all("tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.innerText))")
    assert len(cells) == 3 and cells[0][1] == "iqa" and "0.872 / 0.870" in cells[0]
    assert cells[0][7:9] == ["700", "1"]
    assert cells[1][1:3] == ["flat", "all scores are equal (1)"]
    assert "gone.json: No such file" in cells[2][2]
    notes = page.text_content(".notes")
    assert f"iqa: 1 of 701 scores are missing: 1 × no such file ({ODD})" in notes
    assert 'bad.png (gt_score is "high", not a number)' in notes
    assert page.locator("svg.scatter").count() == 2
    assert "600 of 700 pictures" in page.text_content("figure")
    label = page.get_attribute("svg.scatter", "aria-label")
    assert label.startswith("iqa against the ratings of KADID: SRCC 0.9")
    page.close()


def test_the_question_page_lists_what_could_not_be_read(browser: Any, pages: Path):
    page = browser.new_page()
    page.goto((pages / "vqa.html").as_uri())
    cells = page.eval_on_selector_all("tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.innerText))")
    assert cells[0][0] == "all" and cells[0][1].startswith("50.00")
    assert cells[0][5:10] == ["2", "1", "0", "1", "1"]
    assert ["IQA Distortion Type", "90.98"] in [[row[0], row[10]] for row in cells if len(row) > 10]
    assert f"{ODD} ('<i>hm</i>' is no letter)" in page.text_content(".notes")
    assert page.locator("i", has_text="hm").count() == 0
    page.click("summary >> nth=0")
    assert page.is_visible("dd >> text='<i>hm</i>' is no letter")
    page.close()


def test_a_plot_puts_points_and_curve_where_they_belong():
    x = np.linspace(0, 100, 30)
    y = 1 + 4 / (1 + np.exp(-(x - 50) / 8))
    svg = scatter(list(zip(x, y, strict=True)), fit_logistic(x, y), 'a "label"', "iqa")
    assert 'aria-label="a &quot;label&quot;"' in svg
    dots = svg.split('class="dots" d="')[1].split('"')[0].split("h0")[:-1]
    curve = svg.split('class="fit" d="M')[1].split('"')[0].split("L")
    places = np.array([[float(value) for value in dot.lstrip("M").split()] for dot in dots])
    along = np.array([[float(value) for value in point.split()] for point in curve])
    assert len(places) == 30 and (np.diff(places[:, 0]) > 0).all() and (np.diff(places[:, 1]) <= 0).all()
    assert np.allclose(np.interp(places[:, 0], along[:, 0], along[:, 1]), places[:, 1], atol=1.5)
    assert scatter([(1.0, 1.0)], None, "one", "iqa").count('class="fit"') == 0
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100] and ticks(0.21, 0.39) == pytest.approx([0.25, 0.3, 0.35])
