"""What a filter lets through, and what it refuses to mean."""

import math

import pytest

from reward_plugin.errors import ConfigError
from reward_plugin.score.filters import parse_filter

ROW = {"iaa": 60.0, "iqa": 70.0, "ista": None, "nan": math.nan, "id": 7, "name": "x", "zero": 0.0}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("iaa>60", False),
        ("iaa>=60", True),
        ("iaa > 50 and iqa >= 70", True),
        ("iaa > 50 and iqa > 70", False),
        ("iaa > 60 or iqa == 70", True),
        ("not iaa > 60", True),
        ("not (iaa > 50 and iqa > 50)", False),
        ("50 < iaa <= 60 < iqa", True),
        ("50 < iaa < 60", False),
        ("iaa != 60", False),
        ("0.5*iaa + 0.5*iqa >= 65", True),
        ("(iaa - iqa)/2 < -4.9", True),
        ("iaa > -1e3", True),
        ("id == 7", True),
        # a missing score never passes, whichever way it is asked
        ("ista > 0", False),
        ("ista <= 0", False),
        ("not ista > 0", False),
        ("ista != 1", False),
        ("iaa > 50 or ista > 50", False),
        ("nan < 1 or not nan < 1", False),
        ("gone > 1", False),
        ("name > 1", False),
        ("iaa / zero > 1", False),
    ],
)
def test_rows_pass(text: str, passes: bool):
    assert parse_filter(text).passes(ROW) is passes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iaa",
        "60",
        "1 < 2",
        "iaa >",
        "iaa = 60",
        "iaa > 60 & iqa > 70",
        "iaa > 60 && iqa > 70",
        "iaa and iqa > 70",
        "iaa is 60",
        "iaa in [60]",
        "iaa > 'a'",
        "iaa > True",
        "iaa ** 99 > 1",
        "iaa % 2 == 0",
        "iaa.real > 1",
        "iaa[0] > 1",
        "iaa > 1 if iqa > 2 else iaa > 3",
        "(lambda: iaa)() > 1",
        "__import__('os').system('true') == 0",
        "exec('x') > iaa",
        "iaa > 60; iqa > 1",
        "iaa := 5",
        "\0 > iaa",
        "(" * 500 + "iaa > 1" + ")" * 500,
    ],
)
def test_everything_else_is_an_error_that_shows_the_rule(text: str):
    with pytest.raises(ConfigError, match=r"filter .*iaa>60 and iqa>=70"):
        parse_filter(text)


def test_names_are_checked_against_the_columns():
    wanted = parse_filter("iaa > 1 and sharpnes > 2")
    assert wanted.names == {"iaa", "sharpnes"}
    with pytest.raises(ConfigError, match=r"unknown name 'sharpnes'; known are iaa, sharpness"):
        wanted.check(["iaa", "sharpness"])


def test_a_single_equals_sign_is_explained():
    with pytest.raises(ConfigError, match="equality is =="):
        parse_filter("iaa = 60")
