"""Generative models: a tiny real one that answers A or B, one that babbles, examples, interruptions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Tokenizer

from eval.unisim.generative import draw_examples, kind, read_sources
from eval.unisim.manifest import read_manifest
from eval.unisim.samples import ATTRIBUTES, TASKS, Sample
from reward_plugin.errors import ConfigError
from reward_plugin.unisim.generative import GenerativeJudge
from tests.eval.unisim.planted import (
    IMAGES,
    PIXELS,
    ask,
    cell,
    copied_pictures,
    results,
    rows,
    samples,
    scenes,
    write_bench,
)
from tests.reward.test_unisim_generative import TOKENIZER, save, tiny


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A random model whose only words are A and B, whichever the pictures make likelier."""
    model = tiny(tied=False)
    tokens = Qwen2Tokenizer.from_pretrained(TOKENIZER).convert_tokens_to_ids(["A", "B"])
    with torch.no_grad():
        row = model.lm_head.weight[tokens[0]].clone()
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokens[0]], model.lm_head.weight[tokens[1]] = row, -row
    folder = save(model, tmp_path_factory.mktemp("llava") / "model")
    return {"name": "writes", "kind": "generative", "path": str(folder), "device": "cpu", "batch_size": 4,
            "options": {"max_new_tokens": 1}}  # fmt: skip


def test_every_task_but_ranking_is_answered_in_words(answers: dict[str, Any], tmp_path: Path):
    write_bench(tmp_path / "m", TASKS)
    assert ask(tmp_path / "m", tmp_path / "out", [answers]) == 0
    record = results(tmp_path / "out")
    assert "ranks no gallery" in cell(record, "writes", "ir")["skipped"]
    judge = GenerativeJudge.load(answers["path"], device="cpu", max_new_tokens=1)
    written: Counter[str] = Counter()
    for task in (*TASKS[:6], "nafc"):
        found = cell(record, "writes", task)
        assert (found["answered"], found["unanswered"]) == (6, 0), task
        for sample, row in zip(
            samples(task), sorted(rows(tmp_path / "out", "writes", task), key=lambda r: r["id"]), strict=True
        ):
            images = [str(IMAGES / name) for name in sample.images]
            alone = judge.choose(task, images, sample.texts, sample.attribute)
            assert (row["choice"], row["text"]) == (alone.choice, alone.text), (task, row["id"])
            written[row["text"]] += 1
    assert set(written) == {"A", "B"} and min(written.values()) > 3  # what it says depends on what it sees


def test_an_answer_that_names_no_choice_counts_as_wrong_and_is_reported(tmp_path: Path):
    path = str(save(tiny(tied=False), tmp_path / "model"))
    options = {"device": "cpu", "options": {"max_new_tokens": 3}}
    babbles = {"name": "babbles", "kind": "generative", "path": path, **options}
    write_bench(tmp_path / "m", ["iqa"])
    assert ask(tmp_path / "m", tmp_path / "out", [babbles]) == 3
    found = cell(results(tmp_path / "out"), "babbles", "iqa")
    assert (found["questions"], found["answered"], found["unanswered"], found["left_out"]) == (6, 0, 6, 0)
    assert found["accuracy"] == 0.0 and found["interval"][0] == 0.0
    assert "no choice could be read in 6 of 6 answers" in (tmp_path / "out" / "table.md").read_text()
    assert all(row["choice"] is None and row["text"] for row in rows(tmp_path / "out", "babbles", "iqa"))


def test_an_interrupted_model_goes_on_and_is_asked_nothing_twice(
    answers: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    seen: Counter[tuple[str, ...]] = Counter()
    real = GenerativeJudge.answer

    def answer(self: GenerativeJudge, questions: Any, examples: Any = ()) -> Any:
        if interrupting and len(seen) >= 8:
            raise KeyboardInterrupt
        seen.update((question.task, *question.images) for question in questions)
        return real(self, questions, examples)

    monkeypatch.setattr(GenerativeJudge, "answer", answer)
    write_bench(tmp_path / "m", ["img_2afc", "iqa"])
    interrupting = True
    assert ask(tmp_path / "m", tmp_path / "out", [answers]) == 130
    assert "writes has answered 10 of 12 questions" in capsys.readouterr().err
    before = rows(tmp_path / "out", "writes", "img_2afc")
    assert len(before) == 6 and len(rows(tmp_path / "out", "writes", "iqa")) == 4
    # half a row, as a kill leaves it
    with open(tmp_path / "out" / "answers" / "writes__iqa__planted.jsonl", "a") as file:
        file.write('{"image": "swa')
    interrupting = False
    assert ask(tmp_path / "m", tmp_path / "out", [answers]) == 0
    assert max(seen.values()) == 1 and len(seen) == 12
    assert rows(tmp_path / "out", "writes", "img_2afc") == before
    assert len(rows(tmp_path / "out", "writes", "iqa")) == 6
    monkeypatch.setattr(GenerativeJudge, "load", lambda *args, **options: pytest.fail("loaded again"))
    assert ask(tmp_path / "m", tmp_path / "out", [answers]) == 0


def test_a_broken_picture_is_not_asked_about(answers: dict[str, Any], tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    asked = samples("iqa")
    torn, gone = asked[2].images[0], asked[0].images[0]
    (pictures / torn).write_bytes((pictures / torn).read_bytes()[:2000])
    write_bench(tmp_path / "m", ["iqa"], images=pictures)
    (pictures / gone).unlink()
    assert ask(tmp_path / "m", tmp_path / "out", [answers], root=pictures) == 3
    found = cell(results(tmp_path / "out"), "writes", "iqa")
    assert (found["left_out"], found["answered"]) == (2, 4)
    errors = {row["id"]: row["error"] for row in rows(tmp_path / "out", "writes", "iqa") if row["error"]}
    assert errors["0"] == f"{gone}: missing" and errors["2"].startswith(f"{torn}: ")


def training(folder: Path, pictures: Path) -> Path:
    """Solved questions of quality over pictures that the benchmark does not have, and some that it has."""
    others = ["rocks.png", "hilltop.png", "stream.png", "brushes.png"]
    mine = [Sample(f"own {i}", "iqa", (f"{i}.png", name), label=i % 2) for i, name in enumerate(others)]
    for i in range(len(others)):  # the same pictures, and a copy of one of the benchmark's
        (pictures / f"{i}.png").write_bytes((pictures / others[i - 1]).read_bytes())
    (pictures / "copy.png").write_bytes((pictures / next(iter(scenes()))).read_bytes())
    mine.append(Sample("leak", "iqa", ("copy.png", "rocks.png"), label=0))
    return write_bench(folder, ["iqa"], images=pictures, iqa=mine)


def test_examples_come_from_other_pictures_and_stand_before_each_question(
    answers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pictures = copied_pictures(tmp_path / "images")
    for name in ("rocks.png", "hilltop.png", "stream.png", "brushes.png"):
        (pictures / name).write_bytes((IMAGES / name).read_bytes())
    write_bench(tmp_path / "m", ["iqa"], images=pictures)
    training(tmp_path / "train", pictures)
    shown: list[list[str]] = []
    real = GenerativeJudge.answer

    def answer(self: GenerativeJudge, questions: Any, examples: Any = ()) -> Any:
        shown.append([Path(example.question.images[1]).name for example in examples])
        assert all(example.choice in (0, 1) for example in examples)
        return real(self, questions, examples)

    monkeypatch.setattr(GenerativeJudge, "answer", answer)
    model = answers | {"examples": 2}
    options = ["--examples_from", str(tmp_path / "train")]
    assert ask(tmp_path / "m", tmp_path / "out", [model], *options, root=pictures) == 0
    assert len(shown) == 2 and shown[0] == shown[1] and len(set(shown[0])) == 2
    first = results(tmp_path / "out")["models"][0]["identity"]
    assert ask(tmp_path / "m", tmp_path / "out", [model], *options, "--seed", "5", root=pictures) == 0
    assert results(tmp_path / "out")["models"][0]["identity"] != first and len(shown) == 4
    # with fewer in common there are not enough, which costs no other model
    several = [model | {"examples": 5}, PIXELS]
    assert ask(tmp_path / "m", tmp_path / "other", several, *options, root=pictures) == 3
    record = results(tmp_path / "other")
    assert "it has 4 questions for iqa/planted" in record["models"][0]["problem"]
    assert cell(record, "floor", "iqa")["answered"] == 6


def test_a_question_is_never_its_own_example(tmp_path: Path):
    pictures = copied_pictures(tmp_path / "images")
    for name in ("rocks.png", "hilltop.png", "stream.png", "brushes.png"):
        (pictures / name).write_bytes((IMAGES / name).read_bytes())
    training(write_bench(tmp_path / "m", ["iqa", "paa"], images=pictures) / "train", pictures)
    manifest = read_manifest(tmp_path / "m" / "iqa__planted.jsonl")
    sources = read_sources(tmp_path / "m" / "train", lambda task, dataset: str(pictures))
    drawn = draw_examples(manifest, manifest.samples[0], sources, 4, seed=0)
    assert {question.images[1] for question, _ in drawn} == {
        str(pictures / name) for name in ("rocks.png", "hilltop.png", "stream.png", "brushes.png")
    }
    fewer = draw_examples(manifest, manifest.samples[0], sources, 2, seed=0)
    assert [(q.images, c) for q, c in fewer] == [(q.images, c) for q, c in drawn[:2]]
    with pytest.raises(ConfigError, match=r"4 questions for iqa/planted .* and 5 examples"):
        draw_examples(manifest, manifest.samples[0], sources, 5, seed=0)
    own = read_sources(tmp_path / "m", lambda task, dataset: str(pictures))
    with pytest.raises(ConfigError, match="it has 0 questions"):
        draw_examples(manifest, manifest.samples[0], own, 1, seed=0)
    paa = read_manifest(tmp_path / "m" / "paa__planted.jsonl")
    assert {kind(sample) for sample in paa.samples} == {(name, 2) for name in ATTRIBUTES}
    solved = [
        Sample(name, "paa", ("rocks.png", "stream.png"), label=0, attribute=name) for name in ATTRIBUTES
    ]
    write_bench(tmp_path / "m" / "train", ["paa"], images=pictures, paa=solved)
    sources = read_sources(tmp_path / "m" / "train", lambda task, dataset: str(pictures))
    for sample in paa.samples:  # an example is about the same attribute
        assert draw_examples(paa, sample, sources, 1, seed=0)[0][0].attribute == sample.attribute
    with pytest.raises(ConfigError, match="no manifest is there"):
        read_sources(tmp_path, lambda task, dataset: str(pictures))


def test_rows_say_what_answered(answers: dict[str, Any], tmp_path: Path):
    write_bench(tmp_path / "m", ["iqa"])
    assert ask(tmp_path / "m", tmp_path / "out", [answers]) == 0
    first = rows(tmp_path / "out", "writes", "iqa")
    identity = results(tmp_path / "out")["models"][0]["identity"]
    digest = read_manifest(tmp_path / "m" / "iqa__planted.jsonl").digest
    assert {row["scored_by"] for row in first} == {f"{identity} manifest@{digest[:12]}"}
    changed = answers | {"options": {"max_new_tokens": 2}}
    assert ask(tmp_path / "m", tmp_path / "out", [changed]) in (0, 3)
    assert json.dumps(rows(tmp_path / "out", "writes", "iqa")) != json.dumps(first)
