"""Report and gallery in a real browser, opened from disk: they render, sort, filter and fit a phone."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.compare import write_pages
from eval.results import write
from tests.eval.conftest import visit
from tests.eval.record import make_record

PROMPTS = [
    "a red apple on a teal background",
    "a cat under a blue sky",
    'a boat with an <img src=x onerror=alert(1)> & a "flag" </script>',
    "a green house",
    "a red boat on the grass",
    "an owl",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison's folder; the fourth pair lacks its tuned scores."""
    out = tmp_path_factory.mktemp("eval")
    record = make_record(out, PROMPTS, members=2, failed=(3,))
    run_dir = out / "run"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(
        "".join(f'{{"step": {i}, "reward": {i}.5, "reward/iaa": {i}, "kl": 0.1}}\n' for i in range(5))
    )
    (run_dir / "eval.jsonl").write_text('{"step": 0, "reward": 1.0, "best_step": 0}\n{"step": 4, "rew')
    record["settings"]["run_dir"] = str(run_dir)
    write(record, out / "results.json")
    write_pages(record, out)
    return out


def gallery(pages: Path) -> str:
    return (pages / "gallery" / "index.html").as_uri()


def shown(page: Any) -> list[str]:
    """Ids of the visible cards, in the order of the page."""
    return page.eval_on_selector_all(".pair:not([hidden])", "cards => cards.map(card => card.id)")


def sort_by(page: Any, key: str) -> list[float | None]:
    """Choose an order and read the values it sorts by, missing ones as None."""
    page.select_option("#sort", key)
    column = {"base": 1, "tuned": 2, "delta": 3}[key.split(":")[0]]
    cells = page.eval_on_selector_all(
        ".pair", f"cards => cards.map(card => card.querySelector('tr.reward').children[{column}].textContent)"
    )
    return [None if cell == "–" else float(cell.replace("−", "-")) for cell in cells]


def test_gallery_shows_every_pair_with_its_pictures(page: Any, pages: Path):
    visit(page, gallery(pages))
    assert len(shown(page)) == 12
    assert page.text_content("#count") == "12 pairs"
    assert page.text_content("#pair-2-0 .prompt").startswith(PROMPTS[2])
    page.eval_on_selector_all("img[loading=lazy]", "images => images.forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.querySelectorAll('.pair img')].every(i => i.naturalWidth === 384)")
    assert page.get_attribute("#pair-0-0 .shot.tuned img", "alt") == f"After: {PROMPTS[0]}"
    assert page.locator("#pair-1-1 .error").text_content() == "After: the scorer ran out of memory"


def test_gallery_sorts_by_either_side_and_by_the_difference(page: Any, pages: Path):
    visit(page, gallery(pages))
    for key in ("base:reward", "tuned:reward", "delta:reward"):
        values = sort_by(page, key)
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=True) and len(set(known)) > 6
        assert values[len(known) :] == [None] * (12 - len(known))  # missing scores come last
    page.click("#direction")
    rising = [value for value in sort_by(page, "delta:reward") if value is not None]
    assert rising == sorted(rising)
    assert shown(page)[-1] == "pair-1-1"
    page.click("#direction")
    page.select_option("#sort", "order")
    assert shown(page)[:3] == ["pair-0-0", "pair-0-1", "pair-1-0"]


def test_gallery_filters_by_words_and_category(page: Any, pages: Path):
    visit(page, gallery(pages))
    page.fill("#filter", "RED bo")
    assert shown(page) == ["pair-4-0", "pair-4-1"]
    assert page.text_content("#count") == "2 of 12 pairs"
    page.select_option("#category", "animals")
    assert shown(page) == []
    assert page.is_visible("#empty")
    page.fill("#filter", "")
    assert shown(page) == [f"pair-{index}-{member}" for index in (1, 3, 5) for member in (0, 1)]


def test_full_screen_follows_the_keyboard(page: Any, pages: Path):
    visit(page, gallery(pages))
    page.fill("#filter", "red")
    page.locator("#pair-0-1 .shots").focus()
    page.keyboard.press("Enter")
    assert page.is_visible("#viewer")
    assert page.text_content("#viewer-position") == "2 of 4"
    page.keyboard.press("ArrowRight")
    assert page.text_content("#viewer-prompt").startswith(PROMPTS[4])
    page.wait_for_function("document.getElementById('viewer-tuned').naturalWidth === 384")
    page.keyboard.press("End")
    assert page.is_disabled("#next")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#viewer-position") == "1 of 4"
    assert "Grid energy" in page.text_content("#viewer-scores")
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    # the browser says that the viewer is closed a moment after it is
    page.wait_for_function("document.activeElement.closest('.pair')?.id === 'pair-0-0'")


def test_slider_moves_by_mouse_and_by_keys(page: Any, pages: Path):
    visit(page, gallery(pages) + "#pair-3-0")
    assert page.text_content("#viewer-prompt").startswith(PROMPTS[3])
    page.keyboard.press("s")
    assert page.get_attribute("#stage", "data-mode") == "slider"
    box = page.locator("#viewer-tuned").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    assert float(page.input_value("#split")) == pytest.approx(25, abs=1)
    page.locator("#split").focus()
    page.keyboard.press("ArrowRight")
    assert float(page.input_value("#split")) == pytest.approx(26, abs=1)
    assert page.text_content("#viewer-prompt").startswith(PROMPTS[3])
    clip = page.eval_on_selector(".before", "figure => getComputedStyle(figure).clipPath")
    assert float(re.findall(r"[\d.]+", clip)[1]) == pytest.approx(74, abs=1)


def test_all_scores_and_theme_are_switches(page: Any, pages: Path):
    visit(page, gallery(pages))
    assert not page.is_visible("#pair-0-0 tr.extra")
    page.click("#all-scores")
    assert page.is_visible("#pair-0-0 tr.extra")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert page.get_attribute("html", "data-theme") == "dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report.html", "gallery/index.html"])
def test_pages_fit_a_small_phone_in_both_themes(browser: Any, pages: Path, name: str, scheme: str):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.goto((pages / name).as_uri())
    assert page.get_attribute("html", "data-theme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    if name.startswith("gallery"):
        page.wait_for_selector("#pair-0-0.filled")
        page.click("#pair-0-0 .shots")
        assert (
            page.is_visible("#viewer-close")
            and page.is_visible("#next")
            and page.is_visible("#viewer-prompt")
        )
        for side in ("base", "tuned"):
            box = page.locator(f"#viewer-{side}").bounding_box()
            assert box["width"] > 100 and 0 <= box["x"] <= box["x"] + box["width"] <= 360
    context.close()


def swipe(page: Any, across: int, down: int = 0) -> None:
    """One finger over the picture of the full-screen view."""
    event = "{pointerType: 'touch', isPrimary: true, bubbles: true, clientX: %d, clientY: %d}"
    for kind, x, y in (("pointerdown", 200, 300), ("pointerup", 200 + across, 300 + down)):
        page.evaluate(
            f"document.getElementById('stage').dispatchEvent(new PointerEvent('{kind}', {event % (x, y)}))"
        )


def test_a_finger_across_goes_to_the_next_pair(page: Any, pages: Path):
    visit(page, gallery(pages) + "#pair-0-1")
    for across, down, expected in (
        (-90, 10, "3 of 12"),
        (90, 0, "2 of 12"),
        (-20, 0, "2 of 12"),
        (-90, 90, "2 of 12"),
    ):
        swipe(page, across, down)
        assert page.text_content("#viewer-position") == expected
    page.keyboard.press("s")
    page.evaluate("document.getElementById('stage').setPointerCapture = () => {}")  # there is no real finger
    swipe(page, -90)
    assert page.text_content("#viewer-position") == "2 of 12"


@pytest.mark.parametrize("name", ["report.html", "gallery/index.html"])
def test_pages_print_dark_on_white_even_from_the_dark_theme(page: Any, pages: Path, name: str):
    page.emulate_media(color_scheme="dark")
    page.goto((pages / name).as_uri())
    ink = "getComputedStyle(document.body).color"
    on_screen = page.evaluate(ink)
    page.emulate_media(media="print", color_scheme="dark")
    on_paper = page.evaluate(ink)
    assert on_screen == "rgb(241, 239, 234)" and on_paper == "rgb(28, 27, 25)"
    assert not page.is_visible("#theme")


def test_report_stands_alone_and_says_what_held(page: Any, pages: Path, tmp_path: Path):
    alone = tmp_path / "report.html"
    shutil.copy(pages / "report.html", alone)
    page.goto(alone.as_uri())
    assert page.text_content("h1") == "A small <comparison> & more"
    assert "targets held: the weighted reward rose by" in page.text_content(".verdict")
    assert page.locator(".checks .held").count() >= 4
    images = "[...document.images].map(image => [image.naturalWidth, image.src.slice(0, 16)])"
    assert page.evaluate(images) == [[256, "data:image/webp;"]] * page.locator(".pairs img").count()
    assert page.locator(".pairs li").count() == 12
    assert (
        page.locator("svg.chart").count() == 6 + 3
    )  # distributions, then reward, iaa and kl over iterations
    assert "whose weights were kept" in page.text_content("body")
    assert "the scorer ran out of memory" in page.text_content("details")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))


def test_markdown_has_one_row_for_each_dimension(pages: Path):
    lines = (pages / "report.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + 6 + 1  # and the distance
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert sum(line.startswith("- [x]") for line in lines) == 4
