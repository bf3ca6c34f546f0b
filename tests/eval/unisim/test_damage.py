"""Broken pictures, models and manifests: each costs what hangs on it, and nothing else."""

import shutil
from pathlib import Path

import pytest

from eval.proportion import wilson
from tests.eval.schema import _check
from tests.eval.unisim.planted import (
    CLIP,
    ENCODER,
    IMAGES,
    PIXELS,
    SCHEMA,
    ask,
    cell,
    copied_pictures,
    results,
    rows,
    samples,
    write_bench,
)


def test_pictures_that_are_gone_or_changed_leave_their_questions_out(tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    write_bench(tmp_path / "m", ["img_2afc", "iqa", "ir"], images=pictures)
    first, second = samples("iqa")[0].images[0], samples("iqa")[1].images[0]
    (pictures / first).unlink()
    shutil.copyfile(pictures / "swan.png", pictures / second)
    models = [PIXELS, ENCODER, {"name": "statistics", "kind": "scorer", "scorer": "pixels"}]
    assert ask(tmp_path / "m", tmp_path / "out", models, root=pictures) == 3
    record = results(tmp_path / "out")
    for model in ("floor", "pocket-clip", "statistics"):
        found = cell(record, model, "iqa")
        assert (found["questions"], found["left_out"], found["answered"]) == (6, 2, 4)
        assert found["interval"] == list(wilson(found["right"], 4) or ())
        reasons = {reason["reason"]: reason["example"] for reason in found["reasons"]}
        assert reasons == {"missing": "0", "changed": "1"}
        errors = [row["error"] for row in rows(tmp_path / "out", model, "iqa") if row["error"]]
        assert errors[0] == f"{first}: missing"
    ranked = cell(record, "pocket-clip", "ir")
    assert ranked["left_out"] >= 1 and ranked["answered"] == 6 - ranked["left_out"]
    # repaired, only what was left out is asked
    for name in (first, second):
        shutil.copyfile(IMAGES / name, pictures / name)
    assert ask(tmp_path / "m", tmp_path / "out", models, root=pictures) == 0
    again = results(tmp_path / "out")
    assert cell(again, "pocket-clip", "iqa")["answered"] == 6
    assert again["models"][1]["encoded"]["pictures"] == 2


def test_a_file_that_no_decoder_takes_costs_its_questions_only(tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    name = samples("iqa")[2].images[0]
    (pictures / name).write_bytes((pictures / name).read_bytes()[:2000])
    write_bench(tmp_path / "m", ["iqa"], images=pictures)  # its hash is that of the torn file
    models = [PIXELS, ENCODER, {"name": "statistics", "kind": "scorer", "scorer": "pixels"}]
    assert ask(tmp_path / "m", tmp_path / "out", models, root=pictures) == 3
    for model in models:
        found = cell(results(tmp_path / "out"), model["name"], "iqa")
        assert (found["left_out"], found["answered"]) == (1, 5), model
        assert found["reasons"][0]["example"] == "2" and "decoded" in found["reasons"][0]["reason"], model


def test_a_model_that_cannot_be_loaded_costs_no_other(tmp_path: Path):
    write_bench(tmp_path / "m", ["iqa"])
    broken = tmp_path / "clip"
    shutil.copytree(CLIP, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    models = [
        {"name": "gone", "kind": "encoder", "path": str(tmp_path / "nowhere")},
        ENCODER | {"name": "torn", "path": str(broken)},
        {"name": "unknown", "kind": "scorer", "scorer": "nobody"},
        PIXELS,
    ]
    assert ask(tmp_path / "m", tmp_path / "out", models) == 3
    record = results(tmp_path / "out")
    assert "no such folder" in record["models"][0]["problem"]
    assert (
        "SafetensorError" in record["models"][1]["problem"] or "CLIPModel" in record["models"][1]["problem"]
    )
    assert "unknown name 'nobody'" in record["models"][2]["problem"]
    for model in record["models"][:3]:
        part = cell(record, model["name"], "iqa")
        assert (part["skipped"], part["questions"], part["accuracy"]) == (model["problem"], 0, None)
    assert cell(record, "floor", "iqa")["answered"] == 6
    assert list(_check(record, SCHEMA, SCHEMA, "record")) == []
    table = (tmp_path / "out" / "table.md").read_text()
    assert "gone answered nothing more: " in table and "torn answered nothing more: " in table


def test_another_picture_behind_a_name_is_scored_again(tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    write_bench(tmp_path / "m", ["iqa"], images=pictures)
    models = [{"name": "statistics", "kind": "scorer", "scorer": "pixels"}, ENCODER]
    assert ask(tmp_path / "m", tmp_path / "out", models, root=pictures) == 0
    before = {
        name: rows(tmp_path / "out", name, "iqa")[0]["values"] for name in ("statistics", "pocket-clip")
    }
    first = samples("iqa")[0].images[0]
    shutil.copyfile(pictures / "swan.png", pictures / first)
    write_bench(tmp_path / "m", ["iqa"], images=pictures)
    assert ask(tmp_path / "m", tmp_path / "out", models, root=pictures) == 0
    for name, values in before.items():
        assert rows(tmp_path / "out", name, "iqa")[0]["values"] != values, name


def test_a_manifest_that_is_none_costs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_bench(tmp_path / "m", ["iqa"])
    (tmp_path / "m" / "iqa__bad.jsonl").write_text("{}\n")
    shutil.copyfile(tmp_path / "m" / "iqa__planted.jsonl", tmp_path / "m" / "iqa__renamed.jsonl")
    assert ask(tmp_path / "m", tmp_path / "out", [PIXELS]) == 3
    record = results(tmp_path / "out")
    assert [part["dataset"] for part in record["manifests"]] == ["planted"]
    assert "iqa/bad" in record["problems"][0] and "holds iqa/planted" in record["problems"][1]
    assert "left out iqa/bad" in capsys.readouterr().err
    assert ask(tmp_path / "m", tmp_path / "out", [PIXELS], "--only", '["bad"]') == 1
