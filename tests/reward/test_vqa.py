"""Reading letters from answers, and answering multiple-choice questions."""

import json
from pathlib import Path

import pytest
import torch

from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.images import to_rgb
from reward_plugin.internvl import pixel_values
from reward_plugin.language.chat import Chat
from reward_plugin.language.command import vqa as run_vqa
from reward_plugin.language.config import VqaConfig
from reward_plugin.language.vqa import INSTRUCTION, answer, answer_by_likelihood, options, read_letter
from reward_plugin.prompting import conversation
from tests.reward.golden import CHECKPOINT, EXPECTED, FOLDER

QUESTION = EXPECTED["vqa_question"]
IMAGES = [FOLDER / "images" / name for name in EXPECTED["vqa_responses"]]
YES_NO = "Is it sharp?\nA. Yes\nB. No"


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(load_checkpoint(CHECKPOINT))


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" B.\n", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. right", "B"),
        ("B) Right.", "B"),
        ("Answer: B", "B"),
        ("The answer is B.", "B"),
        ("The correct option is (B)", "B"),
        ("B\n\nThe right half shows finer detail.", "B"),
        ("", None),
        ("Because of the light", None),  # the published code reads B
        ("A dog", None),
        ("A, B", None),
        ("A or B", None),
        ("A. right", None),  # letter and text disagree
        ("E", None),
        ("b.", None),
        ("right", None),
        ("I cannot tell. B", None),
        ("BB", None),
    ],
)
def test_letters_are_read_strictly(response: str, letter: str | None):
    found, why = read_letter(response, QUESTION)
    assert found == letter
    assert (why is None) == (letter is not None)


def test_a_letter_must_be_among_the_options():
    assert read_letter("C", YES_NO) == (None, "C is not among the options A, B")
    assert read_letter("C", "What?") == ("C", None)


def test_options_are_a_list_from_a_on():
    assert options(QUESTION) == {"A": "left", "B": "right", "C": "top", "D": "bottom"}
    assert options("Which?\n(A) one \nB: two") == {"A": "one", "B": "two"}
    assert options("Which?\nB. two\nC. three") == {}
    assert options("A. The only line") == {}


def test_answers_carry_both_readings(chat: Chat):
    (answers,) = answer(
        chat, IMAGES[1:2], [[QUESTION, YES_NO]], max_new_tokens=EXPECTED["vqa_max_new_tokens"]
    )
    assert answers[0].response == EXPECTED["vqa_responses"][IMAGES[1].name]
    assert (answers[0].published, answers[0].letter) == ("D", None)  # "da..." is not a letter
    assert "does not state a letter" in (answers[0].problem or "")
    assert len(answers) == 2


def test_likelihoods_are_those_of_a_plain_forward_pass(chat: Chat):
    checkpoint = chat.checkpoint
    (one, two), (three,) = answer_by_likelihood(chat, IMAGES[:2], [[QUESTION, YES_NO], [YES_NO]])
    for found, image, question, letters in (
        (one, 0, QUESTION, "ABCD"),
        (two, 0, YES_NO, "AB"),
        (three, 1, YES_NO, "AB"),
    ):
        text = conversation(INSTRUCTION + question, checkpoint.num_image_tokens, checkpoint.system_message)
        ids = torch.tensor([checkpoint.tokenizer(text).input_ids])
        pixels = pixel_values([to_rgb(IMAGES[image])], checkpoint.image_size)
        every = checkpoint.model(input_ids=ids, pixel_values=pixels).logits[0, -1].softmax(-1)
        mass = every[checkpoint.tokenizer.convert_tokens_to_ids(list(letters))]
        assert found.letter == letters[int(mass.argmax())]
        assert list(found.probabilities or {}) == list(letters)
        torch.testing.assert_close(
            torch.tensor(list((found.probabilities or {}).values())), mass / mass.sum(), rtol=0, atol=1e-5
        )
        assert found.letter_mass == pytest.approx(float(mass.sum()), abs=1e-6)


def test_a_letter_that_the_vocabulary_lacks_is_named(chat: Chat, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reward_plugin.language.vqa.DEFAULT_LETTERS", ("A", "no such token"))
    with pytest.raises(CheckpointError, match=r"'no such token' is not in .*letters of the options"):
        answer_by_likelihood(chat, IMAGES[:1], [["Which?"]])


def test_the_command_answers_a_benchmark_file(tmp_path: Path, capsys: pytest.CaptureFixture):
    entries = [
        {"image": IMAGES[0].name, "question": QUESTION, "answer": "A", "category": "Loc"},
        {"image": IMAGES[0].name, "question": YES_NO, "answer": "B"},
        {"image": "missing.png", "question": YES_NO, "answer": "B"},
    ]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(entries))
    out = tmp_path / "rows.jsonl"
    config = VqaConfig(
        model=str(CHECKPOINT),
        image_root=IMAGES[0].parent,
        by="likelihood",
        out=out,
        device="cpu",
    )
    assert run_vqa([str(file)], config) == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["A", "B", "B"]
    assert rows[0]["category"] == "Loc" and rows[0]["letter"] in "ABCD" and rows[1]["letter"] in "AB"
    assert "no such file" in rows[2]["error"] and "letter" not in rows[2]
    right = sum(row.get("letter") == row["answer"] for row in rows)
    said = capsys.readouterr().err
    assert f"{right} of 3 correct, 1 without a letter" in said and "published" not in said
    assert "response" not in rows[0] and "published" not in rows[0]


def test_the_command_prints_written_answers_to_a_list(tmp_path: Path, capsys: pytest.CaptureFixture):
    lines = [{"image": str(IMAGES[1]), "question": QUESTION, "answer": "D"}, {"image": str(IMAGES[0])}]
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = VqaConfig(model=str(CHECKPOINT), question=YES_NO, device="cpu", max_new_tokens=2)
    assert run_vqa([str(file)], config) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["question"] for row in rows] == [QUESTION, YES_NO]
    assert (rows[0]["response"], rows[0]["published"], rows[0]["letter"]) == ("da�", "D", None)
    assert "does not state a letter" in rows[0]["problem"] and rows[0]["error"] is None
    assert "0 of 1 correct, 1 without a letter; 1 correct in the published reading" in printed.err


def test_the_command_names_what_is_wrong_with_a_file(tmp_path: Path):
    config = VqaConfig(model=str(CHECKPOINT))
    file = tmp_path / "bench.json"
    for text, message in (
        ("[1]", r"bench.json\[0\]: must be"),
        ("{}", "must be a list"),
        ("[", "cannot be read as JSON"),
        ('[{"image": "a.png"}]', "question is None"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            run_vqa([str(file)], config)
