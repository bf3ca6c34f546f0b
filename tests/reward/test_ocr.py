"""OCR accuracy: its arithmetic, and the real recognizer on drawn text where it is installed."""

import importlib.util
import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from reward_plugin.errors import ConfigError
from reward_plugin.scorers import ocr
from reward_plugin.scorers.ocr import OcrScorer

installed = all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))
needs_engine = pytest.mark.skipif(not installed, reason="the extra ocr is not installed")


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_distance_is_levenshteins(a: str, b: str, edits: int):
    assert ocr.distance(a, b) == ocr.distance(b, a) == edits


@pytest.mark.parametrize(
    ("read", "wanted", "score"),
    [
        ("Hello World", "hello world", 1),
        ("big HELLO sign", "hello", 1),  # contained: what stands around it costs nothing
        ("hallo", "hello", 0.8),
        ("", "hello", 0),
        ("something else altogether", "hello", 0),  # more edits than letters: not below 0
        ("hell", "hello", 0.8),
    ],
)
def test_score_is_one_minus_edits_per_letter(read: str, wanted: str, score: float):
    assert ocr.similarity(read, wanted) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ('a sign that says "New York" and "Paris"', "newyork"),
        ("a sign that says “Open\tLate”", "openlate"),
        ('an empty "" then "Real"', "real"),
        ("it's a sign", None),
        ('an unclosed "quote', None),
        ("", None),
    ],
)
def test_target_is_the_first_quoted_passage(prompt: str, target: str | None):
    assert ocr.target(prompt) == target


class Reader:
    """An engine that finds one line per picture: its mean grey as a word, and fails on black."""

    def __call__(self, pixels: np.ndarray) -> object:
        assert pixels.flags.c_contiguous and pixels.ndim == 3
        if not pixels.any():
            raise RuntimeError("no contours")
        return type("Found", (), {"txts": None if pixels[0, 0, 0] == 1 else ("He", "LLO")})


def test_items_that_cannot_be_scored_cost_only_themselves():
    pictures = [np.full((4, 4, 3), value, np.uint8) for value in (9, 0, 9, 1)]
    table = OcrScorer(Reader()).score([*pictures, b"junk"], ['"hello"', '"hello"', "no quotes", '"a"', '"a"'])
    np.testing.assert_array_equal(table.values[:, 0], [1, np.nan, np.nan, 0, np.nan])
    assert table.errors[1] == "text recognition failed: RuntimeError: no contours"
    assert "quotes no text" in (table.errors[2] or "") and "not one of PNG" in (table.errors[4] or "")
    assert "quotes no text" in (OcrScorer(Reader()).score(pictures[:1]).errors[0] or "")


def test_without_the_extra_its_name_is_in_the_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ConfigError, match=r"needs rapidocr and onnxruntime .* pip install .*\[ocr\]"):
        ocr.build()


def drawn(text: str) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (384, 128), "white")
    PIL.ImageDraw.Draw(image).text((30, 40), text, fill=(200, 20, 20), font=PIL.ImageFont.load_default(48))
    return image


@needs_engine
def test_drawn_text_is_read():
    scorer = ocr.build(threads=1)
    prompt = 'a poster with the words "Hello World" on it'
    table = scorer.score([drawn("HELLO World"), drawn("HELP World"), drawn("")], [prompt] * 3)
    assert table.errors == (None, None, None)
    assert table.values[0, 0] == 1 and 0.6 < table.values[1, 0] < 0.95 and table.values[2, 0] == 0
    alone = scorer.score([drawn("HELP World")], [prompt])
    assert alone.values[0, 0] == table.values[1, 0]
    odd = scorer.score([PIL.Image.new("RGB", size) for size in ((1, 1), (60, 2), (20_000, 1))], [prompt] * 3)
    assert [error is None for error in odd.errors] == [True, False, False] and odd.values[0, 0] == 0
    assert "60x2: one side is over 20 times the other; crop it first" in (odd.errors[1] or "")
