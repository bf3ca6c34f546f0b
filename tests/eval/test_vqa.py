"""Questions about pictures, from the command line to the page: on shipped and on damaged data."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.proportion import wilson
from eval.vqa import in_order
from eval.vqa_config import QuestionSet, VqaBenchmarkConfig
from eval.vqa_data import Question, QuestionData, read_questions
from eval.vqa_results import Answered, tally
from eval.vqa_sets import PUBLISHED, published
from reward_plugin.language import command as language

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "eval" / "data"
TALKS = str(ROOT / "tests" / "data" / "unipercept" / "checkpoint")  # gibberish, but through all of the code
YES_NO = "Is it sharp?\nA. Yes\nB. No"


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def group(found: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return next(part for part in found["groups"] if (part["kind"], part["name"]) == (kind, name))


def write_questions(folder: Path, entries: list[Any], name: str = "bench.json") -> Path:
    (folder / name).write_text(json.dumps(entries))
    return folder / name


def ask(data: Path, out: Path, *options: str) -> int:
    command = ["vqa", "--data", str(data), "--images", str(SHIPPED / "images"), "--out", str(out)]
    return main([*command, "--model", TALKS, "--by", "likelihood", *options])


def test_the_shipped_questions_run_with_the_pocket_rater(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    command = ["vqa", "--config", "configs/eval/vqa_pocket.yaml", "--out", str(tmp_path)]
    assert main(command) == 0
    found = results(tmp_path)
    whole = group(found, "overall", "all")
    assert (whole["n"], whole["unread"], whole["missing"]) == (264, 0, 0)
    # it was taught to rate, not to answer
    assert whole["interval"][0] < whole["chance"] < whole["interval"][1]
    for kind in ("domain", "category", "criterion", "template"):
        parts = [part for part in found["groups"] if part["kind"] == kind]
        for count in ("n", "correct", "wrong"):
            assert sum(part[count] for part in parts) == whole[count], kind
    assert whole["published_reading"] is None and not whole["published"]
    truth = {
        (entry["image"], entry["question"]): entry["answer"]
        for path in SHIPPED.glob("vqa/*.json")
        for entry in json.loads(path.read_text())
    }
    right = sum(truth[Path(row["image"]).name, row["question"]] == row["letter"] for row in rows(tmp_path))
    assert right == whole["correct"]
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out and "| pocket-IQA: Distortion Type |" in table
    monkeypatch.setattr(
        "reward_plugin.language.command.load_chat", lambda config: pytest.fail("loaded again")
    )
    assert main(command) == 0
    assert "264 of 264 are in" in capsys.readouterr().err


def test_what_cannot_be_read_is_listed_and_counts_as_wrong(tmp_path: Path):
    entries = [
        {"image": "penguin.png", "question": YES_NO, "answer": "A", "category": "Type"},
        {"image": "taxi.png", "question": YES_NO, "answer": "B", "category": "Type"},
        {"image": "gone.png", "question": YES_NO, "answer": "B", "category": "Type"},
    ]
    data = write_questions(tmp_path, entries)
    assert ask(data, tmp_path / "out", "--by", "text", "--max_new_tokens", "3") == 3
    found = results(tmp_path / "out")
    whole = group(found, "overall", "all")
    assert (whole["n"], whole["correct"], whole["wrong"], whole["unread"]) == (2, 0, 0, 2)
    assert (whole["missing"], whole["accuracy"], whole["published_reading"]) == (1, 0.0, 0.0)
    assert found["sets"][0]["missing"] == [{"image": "gone.png", "reason": "no such file", "count": 1}]
    assert [one["image"] for one in found["unread"]] == ["penguin.png", "taxi.png"]
    assert all("does not state a letter" in one["problem"] for one in found["unread"])
    table, page = ((tmp_path / "out" / name).read_text() for name in ("table.md", "vqa.html"))
    for text in (table, page):
        assert "in 2 of 2 answers no letter could be read; they count as wrong: penguin.png" in text
        assert "1 of 3 questions have no answer and count nowhere: gone.png (no such file)" in text


def test_entries_that_cannot_be_asked_are_counted_and_named(tmp_path: Path):
    good = {"image": "penguin.png", "question": YES_NO, "answer": "A"}
    entries = [
        good,
        good | {"answer": "C"},
        good | {"answer": None},
        good | {"question": "  "},
        {"question": YES_NO, "answer": "A"},
        "nonsense",
        good | {"answer": "b. no"},
        good | {"answer": "No"},
        good | {"answer": "B"},
    ]
    data = write_questions(tmp_path, entries)
    assert ask(data, tmp_path / "out") == 3
    part = results(tmp_path / "out")["sets"][0]
    assert (part["rows"], part["asked"], len(part["unusable"])) == (9, 3, 6)
    reasons = {entry["where"]: entry["reason"] for entry in part["unusable"]}
    assert reasons["entry 1"] == "\"answer\" is 'C'; it must be one of A, B"
    assert reasons["entry 2"].startswith('"answer" is None')
    assert reasons["entry 3"].startswith('"question" is')
    assert reasons["entry 4"].startswith('no "image"') and reasons["entry 5"].startswith('no "image"')
    assert "6 of 9 entries cannot be asked: penguin.png" in (tmp_path / "out" / "table.md").read_text()
    # the option's own text is an answer; a lower-case letter inside a sentence is none
    read = read_questions("x", QuestionSet(str(data), "."), {})
    assert [question.answer for question in read.questions] == ["A", "B", "B"]
    assert reasons["entry 6"].startswith("\"answer\" is 'b. no'")


def test_keys_are_found_under_other_names_or_named_by_the_user(tmp_path: Path):
    entry = {
        "image": "a.png",
        "question": YES_NO,
        "answer": "A",
        "Main Category": "Type",
        "QA_Template": "How",
    }
    data = write_questions(tmp_path, [entry | {"odd": "Blur"}])
    read = read_questions("IQA", QuestionSet(str(data), "."), {"criterion": "odd"})
    assert read.fields == {
        "domain": None, "category": "Main Category", "criterion": "odd", "template": "QA_Template"
    }  # fmt: skip
    assert read.questions[0].about == {
        "domain": "IQA", "category": "Type", "criterion": "Blur", "template": "How"
    }  # fmt: skip
    without = read_questions("IQA", QuestionSet(str(data), "."), {})
    assert any("no key of" in note and "says the criterion" in note for note in without.notes)
    with pytest.raises(
        ValueError, match=r"fields.category: no entry of .* has the key 'kind'; there are image"
    ):
        read_questions("IQA", QuestionSet(str(data), "."), {"category": "kind"})


def test_pictures_are_found_where_the_published_script_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = write_questions(tmp_path, [{"image": "deep/a.png", "question": YES_NO, "answer": "A"}])
    monkeypatch.chdir(tmp_path)
    place = QuestionSet(str(data))

    def found() -> str:
        return os.path.relpath(read_questions("x", place, {}).questions[0].path, tmp_path)

    assert found() == "deep/a.png"  # where it is missed
    for folder in ("images", "."):
        (tmp_path / folder / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "deep" / "a.png").touch()
    assert found() == "images/deep/a.png"


def test_a_file_that_is_none_costs_no_other_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_questions(tmp_path, [{"image": "penguin.png", "question": YES_NO, "answer": "A"}], "good.json")
    (tmp_path / "bad.json").write_text('[{"image": ')
    images = str(SHIPPED / "images")
    sets = {name: {"data": str(tmp_path / f"{name}.json"), "images": images} for name in ("good", "bad")}
    command = ["vqa", "--model", TALKS, "--by", "likelihood", "--out", str(tmp_path / "out"), "--sets"]
    assert main([*command, json.dumps(sets)]) == 3
    found = results(tmp_path / "out")
    assert "not JSON" in found["sets"][1]["problem"] and group(found, "domain", "good")["n"] == 1
    assert main([*command, json.dumps({"bad": sets["bad"]})]) == 1
    assert "not JSON" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_and_a_changed_picture_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{name}.png" for name in ("penguin", "taxi", "swan", "snake", "camera", "stream")]
    for name in names:
        (folder / name).write_bytes((SHIPPED / "images" / name).read_bytes())
    data = write_questions(tmp_path, [{"image": n, "question": YES_NO, "answer": "A"} for n in names])
    options = ["vqa", "--data", str(data), "--model", TALKS, "--by", "likelihood", "--out", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr(language, "_answers", interrupted_after(4))
        assert main([*options, "--batch_size", "2"]) == 130
    assert "interrupted: 4 of 6 are done; they are in" in capsys.readouterr().err
    before = (out / "answers.jsonl").read_bytes()
    assert before.count(b"\n") == 4 and not (out / "results.json").exists()
    assert main(options) == 0
    after = (out / "answers.jsonl").read_bytes()
    assert after.startswith(before) and len(rows(out)) == 6
    (folder / names[0]).write_bytes((SHIPPED / "images" / "volcano.png").read_bytes())
    assert main(options) == 0
    assert len(rows(out)) == 6
    assert [row["image"] for row in rows(out)][-1].endswith(names[0])  # asked again, so it comes last


def interrupted_after(count: int) -> Any:
    """What answers a batch, until the user interrupts it."""
    real, done = language._answers, []

    def answers(model: Any, batch: Any, *rest: Any) -> Any:
        done.extend(batch)
        if len(done) > count:
            raise KeyboardInterrupt
        return real(model, batch, *rest)

    return answers


def test_questions_about_one_picture_are_asked_together(tmp_path: Path):
    def data(*images: str) -> QuestionData:
        entries = [
            {"image": image, "question": f"{YES_NO}\nC. {i}", "answer": "A"} for i, image in enumerate(images)
        ]
        return read_questions("x", QuestionSet(str(write_questions(tmp_path, entries)), "in"), {})

    sets = [data("b.png", "a.png", "b.png"), data("c.png", "a.png", "b.png")]
    order = [sets[part].questions[index].image for part, index in in_order(sets)]
    assert order == ["b.png", "b.png", "b.png", "a.png", "a.png", "c.png"]
    assert len(set(in_order(sets))) == 6


def test_counts_by_hand():
    def one(letter: str | None, answer: str, error: str | None = None) -> Answered:
        row = {"letter": letter, "published": letter or "N", "error": None}
        question = Question("a.png", "a.png", YES_NO, answer, 2, {})
        return Answered(question, {"error": error} if error else row)

    every = [one("A", "A"), one("A", "B"), one("B", "B"), one(None, "A"), one(None, "A", "no such file")]
    found = tally(every, 0.95)
    counts = {name: found[name] for name in ("n", "correct", "wrong", "unread", "missing")}
    assert counts == {"n": 4, "correct": 2, "wrong": 1, "unread": 1, "missing": 1}
    assert (found["accuracy"], found["published_reading"], found["chance"]) == (0.5, 0.5, 0.5)
    assert found["interval"] == list(wilson(2, 4) or ())
    empty = tally(every[-1:], 0.95)
    assert (empty["n"], empty["missing"], empty["accuracy"], empty["interval"]) == (0, 1, None, None)


def test_published_accuracies_add_up_and_are_found_by_their_names():
    for domain, known in PUBLISHED.items():
        assert sum(known.sizes.values()) == known.questions
        right = sum(known.sizes[name] * table["UniPercept"] for name, table in known.categories.items())
        assert right / known.questions == pytest.approx(known.overall["UniPercept"], abs=0.02), domain
    assert published("IAA", "category", "Composition & Design")["UniPercept"] == 80.00
    assert published("IAA", "category", "Comprehensive Evaluation")["ArtiMuse"] == 32.56
    assert published("IQA", "category", "Distortion Type") == published("IQA", "category", "Type")
    assert published("IQA", "category", "Type")["UniPercept"] == 90.98
    assert published("ISTA", "category", "Semantic Perception")["InternVL3-8B"] == 77.27
    assert published("IAA", "template", "Yes-No") == published("IAA", "template", "yes_no") != {}
    assert published("ISTA")["UniPercept"] == 84.23
    assert (
        published("mine")
        == published("IAA", "category", "Weather")
        == published("IAA", "criterion", "x")
        == {}
    )


def test_published_figures_stand_beside_ours(tmp_path: Path):
    data = write_questions(
        tmp_path,
        [
            {"image": "penguin.png", "question": YES_NO, "answer": "A", "category": "Distortion Type"},
            {"image": "taxi.png", "question": YES_NO, "answer": "B", "category": "Distortion Severity"},
        ],
        "UniPercept-Bench-IQA.json",
    )
    assert ask(data, tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert group(found, "domain", "IQA")["published"] == {"UniPercept": 81.07, "InternVL3-8B": 63.69}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "UniPercept, published" in table and "| 90.98 | 59.43 |" in table
    assert "IQA has 2 questions here and 1088 in the published benchmark" in table


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "nothing to ask"),
        ({"sets": {"IAA": QuestionSet()}}, "sets.IAA has no data"),
        ({"data": "a.json", "sets": {"IAA": QuestionSet()}}, "give one of the two"),
        ({"sets": {"IAA": QuestionSet("a.json")}, "domain": "IAA"}, "images and domain belong to data"),
        ({"data": "a.json", "fields": {"kind": "x"}}, "there is no attribute 'kind'"),
        ({"data": "a.json", "confidence": 95}, "confidence is 95"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        VqaBenchmarkConfig(**options)
