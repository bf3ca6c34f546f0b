"""Scores against ratings, from the command line to the page: on the data that ships, and on damaged data."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.stats

from eval.__main__ import main
from eval.rating_config import RatingConfig, RatingSet
from eval.rating_data import read_ratings
from eval.rating_results import compared
from eval.rating_sets import DIMENSIONS, SETS
from reward_plugin.scorers import SCORERS
from reward_plugin.types import ImageLike, ScoreTable

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "eval" / "data"


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """p0.png to p7.png, more and more red and grainy, and ratings that follow it but for one pair."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        colour = np.array((200, 200 - 20 * i, 200 - 20 * i)) + i * rng.integers(0, 5, (48, 48, 1))
        PIL.Image.fromarray(colour.astype(np.uint8)).save(tmp_path / f"images/p{i}.png")
    write_ratings(tmp_path, [(f"p{i}.png", rating) for i, rating in enumerate((1, 2, 3, 5, 4, 6, 7, 8))])
    return tmp_path


def write_ratings(folder: Path, entries: Sequence[tuple[str, Any]]) -> None:
    listed = [{"image": image, "gt_score": rating} for image, rating in entries]
    (folder / "test.json").write_text(json.dumps(listed))


def rate(
    folder: Path, *options: str, scorers: str = "pixels", columns: Sequence[str] = ("saturation",)
) -> int:
    command = ["rating", "--data", str(folder / "test.json"), "--out", str(folder / "out")]
    command += ["--columns", json.dumps({"test": columns} if columns else {})]
    if scorers:
        command += ["--scorers", scorers]
    return main([*command, "--bootstrap.resamples", "50", *options])


def test_the_shipped_benchmark_runs_with_several_scorers_in_one_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    opened: list[str] = []
    real = PIL.Image.open

    def counting(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(getattr(file, "name", file)))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(PIL.Image, "open", counting)
    config = ["rating", "--config", "configs/eval/rating_pocket.yaml", "--bootstrap.resamples", "100"]
    assert main([*config, "--out", str(tmp_path)]) == 0
    assert len(opened) == 96  # three sets and two scorers, and each picture was decoded once
    found = {part["name"]: part for part in results(tmp_path)["sets"]}
    for dimension in DIMENSIONS:
        part = found[f"pocket-{dimension}"]
        first, second = part["results"]
        assert (part["rows"], first["column"], first["n"], first["missing"]) == (96, dimension, 96, 0)
        assert 0.7 < first["srcc"] < 0.9 and 0.7 < first["plcc"] < 0.9 and 0.5 < first["krcc"] < 0.75
        assert first["srcc_interval"][0] < first["srcc"] < first["srcc_interval"][1]
        assert abs(second["srcc"]) < 0.4
    printed = capsys.readouterr().out
    assert "| pocket-iqa | iqa | 0.7" in printed and "rating.html" in printed

    # the figures are those of the rows
    scores = {Path(row["image"]).name: row["iqa"] for row in rows(tmp_path)}
    truth = json.loads((SHIPPED / "rating" / "iqa.json").read_text())
    pair = [(scores[entry["image"]], entry["gt_score"]) for entry in truth]
    expected = scipy.stats.spearmanr(*zip(*pair, strict=True)).statistic
    assert found["pocket-iqa"]["results"][0]["srcc"] == pytest.approx(expected)

    # what is there is not scored again, and no model is loaded
    monkeypatch.setattr("reward_plugin.score.backend.Backend.open", lambda self: pytest.fail("loaded again"))
    assert main([*config, "--out", str(tmp_path)]) == 0
    assert "96 of 96 are in" in capsys.readouterr().err


def test_the_shipped_data_is_what_its_card_lists():
    import hashlib

    for line in (SHIPPED / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest, name
    images = {path.name for path in (SHIPPED / "images").iterdir()}
    named = {
        entry["image"]
        for path in (*SHIPPED.glob("rating/*.json"), *SHIPPED.glob("vqa/*.json"))
        for entry in json.loads(path.read_text())
    }
    assert named == images and sum(path.stat().st_size for path in SHIPPED.rglob("*.*")) < 1_500_000
    for dimension in DIMENSIONS:
        data = read_ratings("x", RatingSet(str(SHIPPED / f"rating/{dimension}.json"), "."))
        assert (data.rows, data.unusable, data.repeated) == (96, (), ())


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path):
    """Killed with the first rows on disk; the rest is added, and nothing is scored twice."""
    out = tmp_path / "out"
    data, images = str(SHIPPED / "rating/iqa.json"), str(SHIPPED / "images")
    options = ["rating", "--data", data, "--images", images, "--scorers", "pixels", "--out", str(out)]
    slow = (
        "import sys, time; from reward_plugin.scorers import pixels; score = pixels.PixelScorer.score\n"
        "pixels.PixelScorer.score = lambda *a: (time.sleep(0.2), score(*a))[1]\n"
        "from eval.__main__ import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *options, "--batch_size", "4"], cwd=ROOT, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while not (out / "rows.jsonl").exists() or (out / "rows.jsonl").read_bytes().count(b"\n") < 4:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = (out / "rows.jsonl").read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    assert 4 <= whole.count(b"\n") < 96 and not (out / "results.json").exists()
    (out / "rows.jsonl").write_bytes(whole + b'{"image": "cut o')  # as a full disk may leave it
    assert main([*options, "--bootstrap.resamples", "20"]) == 0
    after = (out / "rows.jsonl").read_bytes()
    assert after.startswith(whole) and len({row["image"] for row in rows(out)}) == len(rows(out)) == 96
    assert results(out)["sets"][0]["results"][0]["n"] == 96


def test_another_scorer_or_another_picture_is_noticed(pictures: Path, capsys: pytest.CaptureFixture[str]):
    assert rate(pictures) == 0
    assert rate(pictures, scorers='[{"name": "naive"}]', columns=()) == 1
    assert "holds scores by 'pixels'" in capsys.readouterr().err
    before = rows(pictures / "out")
    PIL.Image.fromarray(np.full((40, 40, 3), (200, 0, 0), np.uint8)).save(pictures / "images/p0.png")
    assert rate(pictures) == 0
    assert "7 of 8 are in" in capsys.readouterr().err
    after = {row["image"]: row for row in rows(pictures / "out")}
    assert [after[row["image"]]["saturation"] == row["saturation"] for row in before] == [False] + 7 * [True]
    # a corrected rating costs no scoring
    write_ratings(pictures, [(f"p{i}.png", i) for i in range(8)])
    assert rate(pictures) == 0
    assert "8 of 8 are in" in capsys.readouterr().err


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


def test_a_server_scores_the_same(pictures: Path):
    from reward_plugin.app import build_app
    from reward_plugin.scorers import build_scorer
    from tests.reward.serving import serving

    assert rate(pictures) == 0
    here = rows(pictures / "out")
    (pictures / "out" / "rows.jsonl").unlink()
    with serving(build_app([build_scorer({"name": "pixels"})])) as port:
        assert rate(pictures, "--url", f"http://127.0.0.1:{port}", scorers="") == 0
    there = rows(pictures / "out")
    assert [row["saturation"] for row in there] == [row["saturation"] for row in here]


def test_published_sets_know_their_place_dimension_and_figures(
    pictures: Path, capsys: pytest.CaptureFixture[str]
):
    folder = pictures / "VR" / "IQA" / "KADID"
    folder.mkdir(parents=True)
    (pictures / "images").rename(folder / "image")
    entries = [{"image": f"p{i}.png", "gt_score": 1.2 + i / 2} for i in range(8)]
    (folder / "KADID.json").write_text(json.dumps([*entries, {"image": "p7.png", "gt_score": 9}]))
    command = ["rating", "--root", str(pictures / "VR"), "--sets", '{"KADID": {}, "AVA": {}}']
    command += [
        "--scorers",
        "pixels",
        "--bootstrap.resamples",
        "20",
        "--columns",
        '{"KADID": ["saturation"]}',
    ]
    assert main([*command, "--out", str(pictures / "out"), "--only", '["KADID"]']) == 0
    (part,) = results(pictures / "out")["sets"]
    assert (part["dimension"], part["published"]["UniPercept"]) == ("iqa", [0.872, 0.870])
    assert part["notes"] == [
        "KADID has 9 entries here and 2000 in the published file: the published figures are of another "
        "test set",
        "1 ratings of KADID lie outside 1.03 to 4.87, the published file's scale",
    ]
    table = (pictures / "out" / "table.md").read_text()
    assert "UniPercept, published" in table and "0.872 / 0.870" in table and "0.496 / 0.475" in table
    (first, *_) = csv.DictReader((pictures / "out" / "table.csv").open())
    assert (first["published UniPercept srcc"], first["published_rows"]) == ("0.872", "2000")
    assert main([*command, "--out", str(pictures / "out")]) == 3  # AVA is not there
    assert [bool(part["problem"]) for part in results(pictures / "out")["sets"]] == [False, True]


def test_a_rater_is_compared_in_the_dimension_that_a_set_rates():
    columns = ["iaa", "iqa", "ista", "tuned_iaa", "tuned_iqa", "laion_aesthetic"]
    assert compared(columns, "iqa") == ["iqa", "tuned_iqa", "laion_aesthetic"]
    assert compared(columns, None) == compared(columns, "iaa", every=True) == columns
    assert compared(columns, "iqa", ["ista"]) == ["ista"]
    with pytest.raises(ValueError, match="no scorer has the dimension 'sharp'; there are iaa, "):
        compared(columns, "iqa", ["sharp"])


def test_the_ten_sets_are_those_that_were_counted():
    assert sum(known.rows for known in SETS.values()) == 54_597
    assert {known.dimension for known in SETS.values()} == set(DIMENSIONS)
    assert all(set(known.published) for name, known in SETS.items() if name != "PARA")
    assert SETS["ISTA-10K"].published["InternVL3-8B"] == (-0.127, 0.046)


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
