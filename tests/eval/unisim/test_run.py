"""The command from frozen questions to tables, with real models: all tasks, reuse, what figures are of."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval.proportion import wilson
from eval.unisim.manifest import read_manifest, write_manifest
from eval.unisim.record import read
from eval.unisim.samples import TASKS, Sample
from reward_plugin.unisim.encoder import Encoder
from tests.eval.schema import _check
from tests.eval.unisim.planted import (
    CLIP_SCORER,
    ENCODER,
    IMAGES,
    PIXELS,
    SCHEMA,
    ask,
    cell,
    copied_pictures,
    gallery,
    results,
    rows,
    samples,
    write_bench,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all tasks with a model of each kind."""
    out = tmp_path_factory.mktemp("whole")
    pixels = {"name": "statistics", "kind": "scorer", "scorer": "pixels"}
    write_bench(out / "manifests", TASKS)
    assert ask(out / "manifests", out, [PIXELS, ENCODER, CLIP_SCORER, pixels]) == 0
    return out


def test_the_record_fits_its_schema_and_counts_the_rows(whole: Path):
    record = read(whole / "results.json")
    assert list(_check(record, SCHEMA, SCHEMA, "record")) == []
    for model in record["models"]:
        for part in model["datasets"]:
            task = part["task"]
            if part["skipped"] is not None:
                assert part["accuracy"] is part["answers"] is None and part["questions"] == 0
                continue
            answers = rows(whole, model["name"], task)
            assert len(answers) == part["questions"] == part["answered"] == len(samples(task))
            if task == "ir":
                assert part["accuracy"] == pytest.approx(
                    (part["ranked"]["medium"] + part["ranked"]["hard"]) / 2
                )
                continue
            chosen = [row["choice"] for row in answers]
            chosen = [c[part["technique"]] if isinstance(c, dict) else c for c in chosen]
            right = sum(c == row["label"] for c, row in zip(chosen, answers, strict=True))
            assert (part["right"], part["accuracy"]) == (right, right / len(answers))
            assert part["interval"] == list(wilson(right, len(answers)) or ())


def test_an_encoder_does_all_tasks_and_the_averages_are_of_tasks(whole: Path):
    model = results(whole)["models"][1]
    assert all(part["skipped"] is None for part in model["datasets"]) and set(model["tasks"]) == set(TASKS)
    core = [model["tasks"][task]["accuracy"] for task in ("img_2afc", "it_2afc", "text_2afc", "iqa")]
    assert model["averages"]["core"]["accuracy"] == pytest.approx(sum(core) / 4)
    ood = [model["tasks"][task]["accuracy"] for task in ("paa", "ooo", "ir")]
    assert model["averages"]["ood"]["accuracy"] == pytest.approx(sum(ood) / 3)
    assert model["averages"]["all"]["accuracy"] == pytest.approx(sum(core + ood) / 7)
    # the pocket CLIP was trained on these things: it tells them apart
    assert core[1] == core[2] == 1.0
    by_choices = model["datasets"][TASKS.index("nafc")]["by_choices"]
    assert set(by_choices) == {"2", "3"} and sum(part["answered"] for part in by_choices.values()) == 6


def test_what_a_model_cannot_do_is_left_out_and_says_why(whole: Path):
    record, table = results(whole), (whole / "table.md").read_text()
    expected = {
        ("floor", "it_2afc"): "pixels say nothing about a text",
        ("floor", "ir"): "a whole gallery takes hours",
        ("adherence", "ooo"): "clip gives one picture a number, and compares no two",
        ("statistics", "nafc"): "name a dimension in columns.nafc to choose by it all the same",
        ("statistics", "paa"): "pixels has no dimension for brightness",
    }
    for (model, task), reason in expected.items():
        assert reason in cell(record, model, task)["skipped"] and reason in table
    floor = record["models"][0]
    assert floor["averages"]["core"] == {
        "accuracy": None, "interval": None, "tasks": ["img_2afc", "iqa"], "missing": ["it_2afc", "text_2afc"]
    }  # fmt: skip
    assert not any(cell(record, "statistics", task)["accuracy"] for task in ("img_2afc", "it_2afc", "paa"))


def test_a_clip_chooses_alike_as_encoder_and_as_scorer(whole: Path):
    for task in ("it_2afc", "text_2afc", "nafc", "iqa", "paa"):
        encoder = {row["id"]: row["choice"] for row in rows(whole, "pocket-clip", task)}
        scorer = {row["id"]: row["choice"] for row in rows(whole, "adherence", task)}
        assert encoder == scorer, task


def test_rows_are_csv_and_tau_says_of_how_many_models(whole: Path):
    record = results(whole)
    with open(whole / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    iqa = [row for row in table if (row["model"], row["task"]) == ("pocket-clip", "iqa")]
    assert [row["technique"] for row in iqa] == ["naive", "clip_iqa"]
    by_technique = cell(record, "pocket-clip", "iqa")["by_technique"]
    assert [int(row["right"]) for row in iqa] == [by_technique[row["technique"]]["right"] for row in iqa]
    assert cell(record, "pocket-clip", "iqa")["right"] == max(part["right"] for part in by_technique.values())
    pairs = {(tau["first"], tau["second"]): tau["n"] for tau in record["tau"]}
    assert pairs["img_2afc", "iqa"] == 2 and pairs["it_2afc", "iqa"] == 2 and pairs["img_2afc", "ir"] == 1


def test_every_picture_is_encoded_once_whatever_names_it(whole: Path):
    encoded = results(whole)["models"][1]["encoded"]
    contents = {(IMAGES / name).read_bytes() for name in gallery()}
    texts = {text for task in TASKS for sample in samples(task) for text in sample.texts}
    # five quantities have one text to be like, and a text and its opposite
    assert encoded == {
        "pictures": len(contents),
        "texts": len(texts) + 15,
        "kept_pictures": 0,
        "kept_texts": 0,
    }
    named = sum(part["naming"] for part in results(whole)["manifests"])
    assert named > 5 * len(contents)


def test_a_run_that_is_done_asks_nobody(whole: Path, monkeypatch: pytest.MonkeyPatch):
    before = results(whole)
    monkeypatch.setattr(Encoder, "load", lambda *args, **options: pytest.fail("loaded again"))
    monkeypatch.setattr("reward_plugin.score.backend.Backend.open", lambda self: pytest.fail("loaded again"))
    monkeypatch.setattr(
        "eval.unisim.run.check_pictures", lambda *args, **options: pytest.fail("looked again")
    )
    models = [{**model["settings"]} for model in before["models"]]
    assert ask(whole / "manifests", whole, models) == 0
    after = results(whole)
    for old, new in zip(before["models"], after["models"], strict=True):
        assert old["datasets"] == new["datasets"] and old["identity"] == new["identity"]


def test_a_planted_wrong_answer_changes_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = samples("it_2afc")
    out = tmp_path / "out"
    write_bench(out / "m", ["it_2afc"])
    assert ask(out / "m", out, [ENCODER]) == 0
    assert cell(results(out), "pocket-clip", "it_2afc")["right"] == 6
    wrong = [replace(right[0], label=1 - (right[0].label or 0)), *right[1:]]
    write_bench(out / "m", ["it_2afc"], it_2afc=wrong)
    assert ask(out / "m", out, [ENCODER]) == 0  # the manifest is another, so its questions are asked again
    found = cell(results(out), "pocket-clip", "it_2afc")
    assert (found["right"], found["accuracy"]) == (5, 5 / 6)
    assert [row["label"] for row in rows(out, "pocket-clip", "it_2afc")] == [sample.label for sample in wrong]
    kept = (out / "answers" / "pocket-clip__it_2afc__planted.jsonl").read_bytes()
    # the first questions again: their answers had only been set aside
    write_bench(out / "m", ["it_2afc"])
    monkeypatch.setattr(
        "eval.unisim.parts.Part.ask", lambda self, judge: self.todo and pytest.fail("asked again")
    )
    assert ask(out / "m", out, [ENCODER]) == 0
    assert cell(results(out), "pocket-clip", "it_2afc")["right"] == 6
    assert [path.read_bytes() for path in (out / "answers" / "other").iterdir()] == [kept]


def test_a_column_is_named_and_lower_is_better_with_a_minus(tmp_path: Path):
    write_bench(tmp_path / "m", ["it_2afc", "iqa", "text_2afc"])
    up = dict.fromkeys(("it_2afc", "iqa", "text_2afc"), "sharpness")
    down = {task: f"-{name}" for task, name in up.items()}
    models = [
        {"name": name, "kind": "scorer", "scorer": "pixels", "columns": columns}
        for name, columns in (("up", up), ("down", down), ("wrong", {"iqa": "beauty"}))
    ]
    assert ask(tmp_path / "m", tmp_path / "out", models) == 3
    record = results(tmp_path / "out")
    for task in ("it_2afc", "iqa"):
        chosen = [[row["choice"] for row in rows(tmp_path / "out", name, task)] for name in ("up", "down")]
        assert chosen[0] == [1 - choice for choice in chosen[1]], task
    assert "both are of one picture" in cell(record, "up", "text_2afc")["skipped"]
    assert "columns: no dimension 'beauty'; pixels has colourfulness" in record["models"][2]["problem"]


def test_only_and_sets_choose_and_each_set_may_have_its_own_root(tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    write_bench(tmp_path / "m", ["iqa", "paa", "ooo"])
    write_bench(tmp_path / "m", ["iqa"], dataset="other")
    shutil.copyfile(tmp_path / "m" / "iqa__other.jsonl", tmp_path / "m" / "iqa__other__train.jsonl")

    def asked(*options: str) -> list[tuple[str, str]]:
        assert ask(tmp_path / "m", tmp_path / "out", [PIXELS], *options, root=tmp_path / "nowhere") == 0
        return [(part["task"], part["dataset"]) for part in results(tmp_path / "out")["manifests"]]

    roots = json.dumps({"planted": str(pictures), "iqa/other": str(IMAGES)})
    every = [("iqa", "other"), ("iqa", "planted"), ("paa", "planted"), ("ooo", "planted")]
    assert asked("--roots", roots) == every
    assert asked("--roots", roots, "--only", '["iqa"]') == every[:2]
    assert asked("--roots", roots, "--only", '["other", "ooo"]') == [every[0], every[3]]
    assert asked("--roots", roots, "--sets", '["paa/planted"]') == every[2:3]


def test_equal_pictures_under_two_names_are_encoded_once(tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    shutil.copyfile(pictures / "swan.png", pictures / "again.png")
    asked = [
        Sample("0", "iqa", ("swan.png", "again.png"), label=0),
        Sample("1", "iqa", ("again.png", "taxi.png"), label=0),
    ]
    write_bench(tmp_path / "m", ["iqa"], images=pictures, iqa=asked)
    assert ask(tmp_path / "m", tmp_path / "out", [ENCODER], root=pictures) == 0
    assert results(tmp_path / "out")["models"][0]["encoded"]["pictures"] == 2
    equal = rows(tmp_path / "out", "pocket-clip", "iqa")[0]
    assert equal["choice"] == {"naive": 0, "clip_iqa": 0}  # a tie goes to the first


def test_two_names_of_one_encoder_share_what_was_encoded(tmp_path: Path):
    write_bench(tmp_path / "m", ["iqa"])
    assert (
        ask(tmp_path / "m", tmp_path / "out", [ENCODER, ENCODER | {"name": "again", "techniques": ["naive"]}])
        == 0
    )
    first, again = (model["encoded"] for model in results(tmp_path / "out")["models"])
    assert (first["pictures"], again["pictures"], again["kept_pictures"]) == (12, 0, 12)


def test_a_manifest_in_another_order_is_the_same_figure(tmp_path: Path):
    write_bench(tmp_path / "m", ["it_2afc"])
    path = tmp_path / "m" / "it_2afc__planted.jsonl"
    assert ask(tmp_path / "m", tmp_path / "out", [ENCODER]) == 0
    before = cell(results(tmp_path / "out"), "pocket-clip", "it_2afc")
    manifest = read_manifest(path)
    write_manifest(replace(manifest, samples=manifest.samples[::-1]), path)
    assert ask(tmp_path / "m", tmp_path / "out", [ENCODER]) == 0
    assert cell(results(tmp_path / "out"), "pocket-clip", "it_2afc") == before
