"""The gallery with many models and with thousands of pairs, in a real browser, opened from disk."""

import time
from pathlib import Path
from typing import Any

import pytest

from eval.gallery import write_gallery
from eval.report import write_report
from tests.eval.conftest import visit
from tests.eval.record import make_record

STEPS = {"base": None, "step@10": 10, "step@20": 20, "tuned": None}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models, the last of which is hacked; one of its pictures is missing, another damaged."""
    out = tmp_path_factory.mktemp("steps")
    record = make_record(out, ["a cat", "an owl", "a boat", "a house"], models=STEPS, hacked="tuned")
    images = out / "gallery" / "images" / "tuned"
    (images / "0001-0.png").unlink()
    (images / "0002-0.png").write_text("no picture")
    write_gallery(record, out)
    write_report(record, out, None)
    return out / "gallery" / "index.html"


def test_every_model_can_be_compared_with_the_reference(page: Any, steps: Path):
    visit(page, steps.as_uri())
    cells = "row => [...row.querySelectorAll('td')].map(cell => cell.textContent)"
    last = page.eval_on_selector("#pair-0-0 tr.reward", cells)
    assert page.text_content("#pair-0-0 .shot.tuned .tag") == "tuned"
    page.select_option("#model", label="step@10")
    first = page.eval_on_selector("#pair-0-0 tr.reward", cells)
    assert first[0] == last[0] and first[1] != last[1]
    assert page.text_content("#pair-0-0 .shot.tuned .tag") == "step@10"
    assert page.text_content("#verdict").startswith("step@10: ")


def test_alarms_of_the_chosen_model_are_shown(page: Any, steps: Path):
    visit(page, steps.as_uri())
    shown = page.text_content("#alarms")
    assert "Serious: A fine regular grid" in shown and "The reward bought with" in shown
    page.select_option("#model", label="step@10")
    assert not page.is_visible("#alarms")


def test_strips_show_one_noise_model_by_model(page: Any, steps: Path):
    visit(page, steps.as_uri())
    page.click("#strips")
    tags = "list => [...list.querySelectorAll('.tag')].map(tag => tag.textContent)"
    assert page.eval_on_selector("#pair-0-0 ol", tags) == list(STEPS)
    assert page.locator("#pair-0-0 .figures .delta").count() == 3
    page.click("#pair-0-0 .shots")
    page.keyboard.press("p")
    assert page.eval_on_selector("#film", tags) == list(STEPS)
    page.keyboard.press("ArrowUp")
    assert page.text_content("#film [aria-current] .tag") == "step@20"
    page.wait_for_function(
        "[...document.querySelectorAll('#film img')].every(image => image.naturalWidth > 0)"
    )
    page.keyboard.press("p")
    assert page.get_attribute("#stage", "data-mode") == "side"
    assert page.text_content("#caption-tuned") == "step@20"


def test_quick_orders_are_best_worst_and_most_changed(page: Any, steps: Path):
    visit(page, steps.as_uri())
    read = "cards => cards.map(card => card.querySelector('tr.reward .delta').textContent.replace('−', '-'))"
    for name, sign in (("Best", -1), ("Worst", 1)):
        page.click(f"button:text-is('{name}')")
        values = [float(text) for text in page.eval_on_selector_all(".pair", read)]
        assert values == sorted(values, key=lambda value: sign * value)
        assert page.get_attribute(f"button:text-is('{name}')", "aria-pressed") == "true"
    page.click("button:text-is('Most changed')")
    assert page.input_value("#sort") == "change"


def test_pictures_that_are_missing_or_damaged_are_counted_and_shown_as_such(page: Any, steps: Path):
    visit(page, steps.as_uri())
    assert page.text_content(".masthead .error") == "2 pictures are missing or cannot be read."
    assert page.text_content("#pair-1-0 .shot.tuned .gone") == "picture missing"
    page.click("#pair-2-0 .shots")
    assert page.get_attribute("#viewer-tuned", "alt") == "tuned: picture missing"
    assert "picture missing" in (steps.parents[1] / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_thousand_pairs_stay_smooth(page: Any, tmp_path: Path):
    prompts = [f"a thing of kind {number}" for number in range(3000)]
    record = make_record(tmp_path, prompts, pictures=12)
    address = write_gallery(record, tmp_path).as_uri()
    began = time.monotonic()
    page.goto(address)
    page.wait_for_selector("#pair-0-0.filled img")
    assert time.monotonic() - began < 20  # about a second on idle cores
    assert page.text_content("#count") == "3000 pairs"

    def filled() -> int:
        count: int = page.locator(".pair.filled").count()
        assert page.evaluate("document.images.length") <= 2 * count + 2  # and those of the full-screen view
        return count

    assert 0 < filled() < 60
    # Each of these touches all pairs; by the page's own clock, so that other work counts little.
    timed = "action => { const began = performance.now(); action(); return performance.now() - began }"
    write = (
        "(f => {{ f.value = '{}'; f.dispatchEvent(new Event('input')) }})(document.getElementById('filter'))"
    )
    sort = "document.querySelector('[data-sort=change]').click()"
    for action in (sort, write.format("kind 29"), write.format("")):
        assert page.evaluate(f"({timed})(() => {{ {action} }})") < 5000
    page.evaluate("document.querySelector('.pair:nth-of-type(1500)').scrollIntoView()")
    page.wait_for_function("document.querySelector('.pair:nth-of-type(1500)').classList.contains('filled')")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('.pair:last-of-type').classList.contains('filled')")
    page.wait_for_function("!document.querySelector('.pair:nth-of-type(1500)').classList.contains('filled')")
    assert filled() < 60
    page.click(".pair:last-of-type .shots")
    assert page.text_content("#viewer-position") == "3000 of 3000"
    page.keyboard.press("Home")
    assert page.text_content("#viewer-position") == "1 of 3000"
    page.keyboard.press("Escape")
    page.wait_for_function("document.activeElement.closest('.pair')?.matches(':first-of-type')")


def test_a_pair_far_down_opens_from_its_address(page: Any, steps: Path):
    visit(page, steps.as_uri() + "#pair-3-0")
    assert page.text_content("#viewer-prompt") == "a house"
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_names_and_headings_for_a_screen_reader(page: Any, steps: Path):
    visit(page, steps.as_uri())
    assert page.get_by_role("heading", level=2).count() == 4  # one for each pair, near the window or not
    assert page.get_by_role("button", name="Full screen: a cat").count() == 1
    assert page.get_by_role("combobox", name="Model compared with base").count() == 1
    assert page.get_by_role("list", name="Signs of reward hacking").count() == 1
    unnamed = "e => !e.textContent.trim() && !e.ariaLabel && !e.labels?.length"
    found = f"[...document.querySelectorAll('button, select, input')].filter({unnamed}).map(e => e.id)"
    assert page.evaluate(found) == []
