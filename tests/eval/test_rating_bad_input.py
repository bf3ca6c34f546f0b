"""Damaged ratings, missing pictures, failing scorers: each ends in a count and a name."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from eval.__main__ import main
from eval.rating_config import RatingConfig, RatingSet
from eval.rating_data import read_ratings
from reward_plugin.scorers import SCORERS
from reward_plugin.types import ImageLike, ScoreTable
from tests.eval.rated import make_pictures, rate, results, write_ratings


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path)


def test_bad_entries_are_counted_and_named(pictures: Path, capsys: pytest.CaptureFixture[str]):
    good = [(f"p{i}.png", i) for i in range(8)]
    bad = [("p1.png", "3.5"), ("p2.png", float("nan")), ("p3.png", None), ("p4.png", True)]
    write_ratings(pictures, [*good, *bad, ("gone.png", 4), ("p5.png", 5), ("p6.png", 1)])
    assert rate(pictures) == 3
    part = results(pictures / "out")["sets"][0]
    found = {found["column"]: found for found in part["results"]}["saturation"]
    assert (part["rows"], part["rated"], found["n"], found["missing"]) == (15, 11, 10, 1)
    assert [(entry["image"], entry["reason"]) for entry in part["unusable"]] == [
        ("p1.png", 'gt_score is "3.5", not a number'),
        ("p2.png", "gt_score is nan, not a finite number"),
        ("p3.png", "gt_score is null, not a number"),
        ("p4.png", "gt_score is true, not a number"),
    ]
    assert found["reasons"] == [{"reason": "no such file", "count": 1, "image": "gone.png"}]
    assert [(again["image"], again["contradictory"]) for again in part["repeated"]] == [
        ("p5.png", False),
        ("p6.png", True),
    ]
    out, err = capsys.readouterr()
    assert "4 of 15 entries cannot be used, the first (entry 8)" in err
    for text in (
        out,
        (pictures / "out" / "table.md").read_text(),
        (pictures / "out" / "rating.html").read_text(),
    ):
        assert "4 of 15 entries cannot be used: p1.png" in text
        assert "saturation: 1 of 11 scores are missing: 1 × no such file (gone.png)" in text
        assert "2 pictures are in the file more than once, each entry counts: p5.png, p6.png" in text
        assert "1 of them with different ratings: p6.png" in text
    write_ratings(pictures, [*good, bad[0]])
    assert rate(pictures) == 3  # every picture has its score, and yet an entry is lost
    write_ratings(pictures, [*good, ("gone.png", 4), ("p5.png", 5), ("p6.png", 1)])
    assert rate(pictures, "--duplicates", "first") == 3
    part = results(pictures / "out")["sets"][0]
    assert (part["rated"], part["left_out"], len(part["repeated"])) == (9, 2, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"image": "p0.png", "gt_score": 1}', "not JSON"),
        ('{"image": "p0.png"}', "holds a dict; it must be a list"),
        ("[]", "is empty"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_costs_no_other_set(
    content: str | None, reason: str, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    broken = pictures / "broken.json"
    if content is not None:
        broken.write_text(content)
    sets = json.dumps({"whole": {"data": str(pictures / "test.json")}, "broken": {"data": str(broken)}})
    command = ["rating", "--scorers", "pixels", "--out", str(pictures / "out"), "--bootstrap.resamples", "20"]
    assert main([*command, "--sets", sets]) == 3
    whole, part = results(pictures / "out")["sets"]
    assert reason in part["problem"] and part["results"] == []
    assert whole["results"][0]["n"] == 8
    assert f"broken: could not be read: {broken}" in (pictures / "out/table.md").read_text()
    alone = json.dumps({"broken": {"data": str(broken)}})
    assert main([*command, "--sets", alone]) == 1
    assert reason in capsys.readouterr().err


def test_a_broken_line_is_one_entry(pictures: Path):
    lines = [json.dumps({"image": f"p{i}.png", "gt_score": i}) for i in range(6)]
    (pictures / "test.jsonl").write_text("\n".join([*lines, '{"image": "p6.png", "gt_sc', ""]))
    data = read_ratings("x", RatingSet(str(pictures / "test.jsonl"), str(pictures / "images")))
    assert len(data.rated) == 6
    (broken,) = data.unusable
    assert broken.where == "line 7" and broken.reason.startswith("not JSON")


def test_a_wrong_folder_is_said_before_anything_is_loaded(pictures: Path, capsys: pytest.CaptureFixture[str]):
    assert rate(pictures, "--images", str(pictures / "elsewhere")) == 1
    assert "none of 8 pictures is there, such as" in capsys.readouterr().err
    assert not (pictures / "out").exists()


def test_what_is_undefined_is_said_and_never_a_number(pictures: Path):
    write_ratings(pictures, [(f"p{i}.png", 5) for i in range(8)])
    assert rate(pictures) == 3
    found = results(pictures / "out")["sets"][0]["results"][0]
    assert found["srcc"] is found["plcc"] is found["krcc"] is None
    assert found["undefined"] == "all ratings are equal (5)"
    assert "no correlation: all ratings are equal (5)" in (pictures / "out/table.md").read_text()
    write_ratings(pictures, [("p0.png", 1), ("p5.png", 2)])
    assert rate(pictures) == 3
    assert results(pictures / "out")["sets"][0]["results"][0]["undefined"].startswith("2 pictures with score")
    for i in range(8):
        colour = (200, 200 - 20 * i, 200 - 20 * i)
        PIL.Image.fromarray(np.full((12, 12, 3), colour, np.uint8)).save(pictures / f"images/p{i}.png")
    write_ratings(pictures, [(f"p{i}.png", i) for i in (0, 2, 4, 6)])
    assert rate(pictures, columns=("saturation", "sharpness")) == 3
    by_name = {found["column"]: found for found in results(pictures / "out")["sets"][0]["results"]}
    assert by_name["saturation"]["srcc"] == 1 and "at least 5" in by_name["saturation"]["unfitted"]
    assert by_name["sharpness"]["undefined"] == "all scores are equal (0)"


class SometimesNone:
    """Redness, missing for the strongest reds; breaks on the grey picture."""

    name = "sometimes"
    dimensions = ("redness",)
    ranges: Mapping[str, tuple[float, float]] = {"redness": (0, 255)}

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        means = [np.asarray(image).mean(axis=(0, 1)) for image in images]
        if any(mean[0] == mean[1] for mean in means):
            raise RuntimeError("no colour")
        values = [float(mean[0] - mean[1]) for mean in means]
        return ScoreTable.computed(self.dimensions, [[v if v < 118 else np.inf] for v in values])


def test_a_scorer_that_fails_on_some_is_counted_and_costs_no_other(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(SCORERS, "sometimes", SometimesNone)
    assert rate(pictures, scorers='[{"name": "pixels"}, {"name": "sometimes"}]', columns=()) == 3
    found = {found["column"]: found for found in results(pictures / "out")["sets"][0]["results"]}
    assert (found["saturation"]["n"], found["redness"]["n"], found["redness"]["missing"]) == (8, 5, 3)
    reasons = {reason["reason"]: (reason["count"], reason["image"]) for reason in found["redness"]["reasons"]}
    assert reasons == {
        "the model returned a score that is not finite": (2, "p6.png"),
        "scorer 'sometimes' failed: RuntimeError: no colour": (1, "p0.png"),
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "nothing to rate"),
        ({"sets": {"AVA": RatingSet()}}, "sets.AVA has no data"),
        ({"sets": {"mine": RatingSet()}, "root": "data"}, "sets.mine has no data"),
        ({"data": "a.json", "sets": {"AVA": RatingSet()}}, "give one of the two"),
        ({"data": "a.json", "only": ["AVA"]}, "there is no set 'AVA'; there are a"),
        ({"sets": {"AVA": RatingSet("a.json")}, "images": "b"}, "images and dimension belong to data"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        RatingConfig(**options)
