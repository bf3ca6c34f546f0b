"""Scores against ratings, from the command line to the page: on the data that ships, and on damaged data."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.stats

from eval.__main__ import main
from eval.rating_config import RatingSet
from eval.rating_data import read_ratings
from eval.rating_results import compared
from eval.rating_sets import DIMENSIONS, SETS
from tests.eval.rated import make_pictures, rate, results, rows, write_ratings

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "eval" / "data"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path)


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
    until = time.monotonic() + 150
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
