"""What a config may say: mistakes are refused before anything is loaded, and say what to write instead."""

from pathlib import Path
from typing import Any

import pytest

from eval.unisim.config import ModelConfig, UnisimConfig
from eval.unisim.samples import Task
from eval.unisim.scorers import ALONE, PROMPTED, Way, way
from eval.unisim.tasks import Undefined
from reward_plugin.scorers import SCORERS
from tests.eval.unisim.planted import CLIP, ENCODER, IMAGES, PIXELS, ask, write_bench

ENCODES = {"name": "a", "kind": "encoder", "path": "p"}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"name": "a/b", "kind": "pixels"}, "letters, digits"),
        ({"name": "a__b", "kind": "pixels"}, "no __"),
        ({"name": "", "kind": "pixels"}, "letters, digits"),
        ({"name": "a", "kind": "encoder"}, "path is missing; give the folder or hub id of the encoder"),
        ({"name": "a", "kind": "generative"}, "path is missing"),
        ({"name": "a", "kind": "scorer"}, "scorer is missing"),
        ({"name": "a", "kind": "scorer", "scorer": "clip", "path": "p"}, "stand in scorer: {name: ...}"),
        ({"name": "a", "kind": "pixels", "weights": "w"}, "weights belongs to encoder"),
        (ENCODES | {"examples": 2}, "examples belongs to generative"),
        (ENCODES | {"columns": {"iqa": "x"}}, "columns belongs to scorer"),
        (ENCODES | {"batch_size": 0}, "batch_size is 0"),
        (ENCODES | {"techniques": ["clever"]}, "technique 'clever'; there are naive, paper, clip_iqa"),
        (ENCODES | {"techniques": []}, "techniques is empty"),
        ({"name": "a", "kind": "scorer", "scorer": "clip", "columns": {"beauty": "x"}}, "columns.beauty"),
    ],
)  # fmt: skip
def test_a_model_that_makes_no_sense_is_refused(options: dict[str, Any], rule: str):
    with pytest.raises(ValueError, match="models, ") as error:
        ModelConfig(**options)
    assert rule in str(error.value)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"models": []}, "models is empty"),
        ({"models": [ModelConfig(**PIXELS)] * 2}, "two are called 'floor'"),
        ({"root": None}, "root is missing"),
        ({"models": [ModelConfig("g", "generative", "p", examples=1)]}, "examples_from is missing"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(options: dict[str, Any], rule: str):
    with pytest.raises(ValueError) as error:
        UnisimConfig(**({"models": [ModelConfig(**PIXELS)], "root": "data"} | options))
    assert rule in str(error.value)


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_bench(tmp_path / "m", ["iqa"])
    cases: list[tuple[list[dict[str, Any]], list[str], int, str]] = [
        ([PIXELS | {"shape": 3}], [], 2, "shape"),
        ([PIXELS | {"kind": "oracle"}], [], 2, "oracle"),
        ([PIXELS], ["--sets", '["iqa"]'], 1, "not written as TASK/DATASET"),
        ([PIXELS], ["--only", '["beauty"]'], 1, "no data set is left"),
        ([PIXELS], ["--sets", '["iqa/nothing"]'], 1, "no data set 'iqa/nothing'"),
        ([PIXELS], ["--sets", '["iqa/kadid"]'], 1, "kadid10k"),
    ]
    for models, options, code, message in cases:
        assert ask(tmp_path / "m", tmp_path / "out", models, *options) == code, options
        assert message in capsys.readouterr().err.splitlines()[-1], options


def test_the_table_of_scorers_knows_every_scorer():
    known = set(PROMPTED) | set(ALONE) | {"pyiqa"}
    assert known == set(SCORERS)


@pytest.mark.parametrize(
    ("scorer", "task", "attribute", "columns", "expected"),
    [
        ("pickscore", "it_2afc", None, {}, Way(None, 1, True)),
        ("pickscore", "iqa", None, {}, Way(None, 1, True)),
        ("unisim", "nafc", None, {}, Way("unisim_adherence", 1, True)),
        ("unisim", "paa", "contrast", {}, Way("unisim_contrast", 1, False)),
        ("unipercept", "iqa", None, {}, Way("iqa", 1, False)),
        ("unipercept", "it_2afc", None, {"it_2afc": "iaa"}, Way("iaa", 1, False, True)),
        ("pyiqa", "iqa", None, {}, Way(None, 1, False)),
        ("pyiqa", "iqa", None, {"iqa": "-niqe"}, Way("niqe", -1, False, True)),
        ("pixels", "paa", "colorfulness", {}, Way("colourfulness", 1, False)),
        ("pixels", "paa", "contrast", {"paa/contrast": "saturation"}, Way("saturation", 1, False, True)),
    ],
)
def test_what_a_scorer_chooses_by(
    scorer: str, task: Task, attribute: Any, columns: dict[str, str], expected: Way
):
    assert way(scorer, task, attribute, columns) == expected


@pytest.mark.parametrize(
    ("scorer", "task", "attribute"),
    [
        ("unipercept", "nafc", None),
        ("unipercept", "paa", "contrast"),
        ("ocr", "iqa", None),
        ("pyiqa", "paa", "contrast"),
    ],
)
def test_what_a_scorer_cannot_do(scorer: str, task: Task, attribute: Any):
    with pytest.raises(Undefined, match=scorer):
        way(scorer, task, attribute, {})


def test_a_scorers_own_dimensions_carry_it_through(tmp_path: Path):
    """UniSim as a scorer: a prompt for one task, none for the others, quality and attributes by name."""
    from tests.eval.unisim.planted import cell, results, rows

    write_bench(tmp_path / "m", ["it_2afc", "iqa", "paa"])
    dimensions = [
        "unisim_adherence",
        *(f"unisim_{name}" for name in ("quality", "brightness", "colorfulness")),
    ]
    spec = {"name": "unisim", "path": CLIP, "device": "cpu", "dimensions": dimensions, "prefix": "tuned"}
    models = [{"name": "unisim", "kind": "scorer", "scorer": spec}, ENCODER | {"techniques": ["naive"]}]
    assert ask(tmp_path / "m", tmp_path / "out", models, root=IMAGES) == 0
    for task in ("it_2afc", "iqa"):
        chosen = [
            {row["id"]: row["choice"] for row in rows(tmp_path / "out", name, task)}
            for name in ("unisim", "pocket-clip")
        ]
        if task == "iqa":
            chosen[1] = {name: choice["naive"] for name, choice in chosen[1].items()}
        assert chosen[0] == chosen[1], task
    assert "gives no unisim_contrast" in cell(results(tmp_path / "out"), "unisim", "paa")["skipped"]
