"""The record: complete, plain JSON, and refused when it is something else."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.results import SCHEMA, VERSION, read, write
from tests.eval.record import DIMENSIONS, make_record

PROMPTS = ["a red apple", "a cat", "a blue boat"]


def test_the_record_holds_settings_versions_samples_and_summary(tmp_path: Path):
    make_record(tmp_path, PROMPTS, members=2)
    record = read(tmp_path / "results.json")
    assert (record["schema"], record["version"]) == (SCHEMA, VERSION)
    assert record["settings"]["sampling"]["num_steps"] == 2
    assert {"python", "torch", "diffusers", "commit"} <= set(record["versions"])
    assert [model["name"] for model in record["models"]] == ["base", "tuned"]
    roles = {entry["name"]: entry["role"] for entry in record["dimensions"]}
    assert roles == {
        "reward": "reward",
        "iaa": "trained",
        "iqa": "trained",
        "adherence": "held_out",
        "grid_energy": "held_out",
        "diversity": "held_out",
        "pixel_distance": "distance",
    }
    assert len(record["samples"]) == 6
    for sample in record["samples"]:
        for side in sample["sides"].values():
            assert set(side["scores"]) == {"reward", *DIMENSIONS}
            assert (tmp_path / side["image"]).is_file()
    comparison = record["comparisons"][0]
    assert set(comparison["summary"]) == set(roles)
    assert set(comparison["categories"]) == {"animals", "food"}
    assert comparison["categories"]["food"]["reward"]["n"] == 4


def test_the_summary_is_the_mean_of_the_samples(tmp_path: Path):
    record = make_record(tmp_path, PROMPTS, members=2)
    for name in ("reward", *DIMENSIONS):
        base, tuned = (
            np.array([sample["sides"][side]["scores"][name] for sample in record["samples"]])
            for side in ("base", "tuned")
        )
        result = record["comparisons"][0]["summary"][name]
        assert result["difference"] == pytest.approx((tuned - base).mean(), abs=1e-3)
        assert result["interval"][0] <= result["difference"] <= result["interval"][1]
    scores = record["samples"][0]["sides"]["base"]["scores"]
    assert scores["reward"] == pytest.approx(0.5 * scores["iaa"] + 0.5 * scores["iqa"], abs=1e-3)


def test_missing_scores_are_null_named_and_counted(tmp_path: Path):
    record = make_record(tmp_path, PROMPTS, failed=(1,))
    side = record["samples"][1]["sides"]["tuned"]
    assert side["scores"]["iaa"] is None and side["scores"]["reward"] is None
    assert side["error"] == "the scorer ran out of memory"
    result = record["comparisons"][0]["summary"]["reward"]
    assert (result["n"], result["missing"]) == (2, 1)


def test_one_member_leaves_diversity_out(tmp_path: Path):
    assert "diversity" not in make_record(tmp_path, PROMPTS)["comparisons"][0]["summary"]


def test_a_number_that_is_not_finite_is_refused_and_the_old_file_stays(tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"value": float("nan")}, path)
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; run"),
        ("{", "is not valid JSON"),
        ("[]", "is no record of a comparison"),
        (json.dumps({"schema": SCHEMA, "version": 99}), "has version 99, this program reads"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read(path)
