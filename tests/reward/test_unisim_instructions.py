"""What UniSim asks a generative model, to the letter, and how strictly its answer is read."""

import hashlib

import numpy as np
import pytest

from reward_plugin.errors import ConfigError
from reward_plugin.unisim.instructions import (
    INSTRUCTIONS,
    check_instructions,
    example_answer,
    options,
    pieces,
)
from reward_plugin.unisim.questions import Question
from reward_plugin.unisim.reading import read_choice

#: Of the texts in the published code, with {0} and {1} for its names of the texts.
PUBLISHED = {
    "img_2afc": "1f4dd3d2898f23ac",
    "it_2afc": "cdc5310b7803f8f7",
    "text_2afc": "a2306cbe40e96c7e",
    "iqa": "67946e2fa5366387",
    "ooo": "8f5d5c9ebfd6c138",
    "nafc": "8e7787685084efd0",
    "brightness": "8356249cc95db2a3",
    "colorfulness": "5b0be4337a57981b",
    "contrast": "a2a5fbf748513399",
    "sharpness": "e94fdfffd3ea27ef",
}
TWO, THREE = ("Image 1", "Image 2"), ("Image 1", "Image 2", "Image 3")


def asked(task: str, images: int, texts: tuple[str, ...] = (), attribute: str | None = None) -> Question:
    return Question(task, [np.zeros((2, 2, 3), np.uint8)] * images, texts, attribute)


def test_the_instructions_are_the_published_ones_to_the_letter():
    digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in INSTRUCTIONS.items()}
    assert digests == PUBLISHED


def test_texts_go_in_as_they_are():
    texts = ("a {1} cat", '"{0}" <image> {x}')
    whole = "<image>".join(pieces(asked("text_2afc", 1, texts)))
    assert 'caption 1: "a {1} cat", caption 2: ""{0}" <image> {x}" \n' in whole
    assert len(pieces(asked("text_2afc", 1, texts))) == 2
    assert [len(pieces(asked(task, n, ("a",)))) for task, n in (("it_2afc", 2), ("nafc", 3))] == [3, 4]
    assert 'caption: "a red boat". which' in pieces(asked("it_2afc", 2, ("a red boat",)))[-1]
    assert "which image is brighter?" in pieces(asked("paa", 2, attribute="brightness"))[-1]


def test_any_number_of_pictures_is_asked_about():
    assert pieces(asked("nafc", 2, ("a",))) == pieces(asked("it_2afc", 2, ("a",)))
    four = pieces(asked("nafc", 4, ("a",)))
    assert len(four) == 5 and "Here are four images: " in four[0] and "which of the four images" in four[-1]
    assert "Here are 12 images: " in pieces(asked("nafc", 12, ("a",)))[0]


def test_choices_are_called_as_in_the_instruction():
    assert options(asked("img_2afc", 3)) == ("Image 2", "Image 3")
    assert options(asked("text_2afc", 1, ("a", "b"))) == ("Caption 1", "Caption 2")
    assert options(asked("ooo", 3)) == THREE and options(asked("iqa", 2)) == TWO
    assert example_answer(asked("ooo", 3), 2) == "C" and example_answer(asked("img_2afc", 3), 1) == "B"
    assert example_answer(asked("nafc", 4, ("a",)), 3) == "Image 4"  # its instruction has no letters
    with pytest.raises(ConfigError, match="choice 2 of a question with 2 choices"):
        example_answer(asked("iqa", 2), 2)


@pytest.mark.parametrize(
    ("text", "choices", "index"),
    [
        ("A", TWO, 0),
        (" b ", TWO, 1),
        ("(B)", TWO, 1),
        ("B.", TWO, 1),
        ("(A) Image 1", TWO, 0),
        ("B: Image 2", TWO, 1),
        ("A Image 1", TWO, 0),
        ("Image 2", TWO, 1),
        ("Image 3", ("Image 2", "Image 3"), 1),
        ("Image 2 has superior quality.", TWO, 1),
        ("Caption 1 is better aligned with the reference image.", ("Caption 1", "Caption 2"), 0),
        ("The answer is (B).", TWO, 1),
        ("Answer: A", TWO, 0),
        ("The correct option is B because it is sharp", TWO, 1),
        ("C", THREE, 2),
        ("B\n\nImage 1 is a dog, Image 2 a cat.", TWO, 1),
        ("Let me see.\nThe better one is image 1.", TWO, 0),
        ("Compared to image 1, image 3 is closer.", ("Image 2", "Image 3"), 1),
        ("", TWO, None),
        ("A dog is in both", TWO, None),
        ("The answer is A dog", TWO, None),
        ("both", TWO, None),
        ("(A) Image 2", TWO, None),
        ("A Image 2", TWO, None),
        ("(A) or (B)", TWO, None),
        ("Image 1 and image 2 are alike", TWO, None),
        ("C", TWO, None),
        ("Image 1", ("Image 2", "Image 3"), None),
        ("Image 12", TWO, None),
        ("Absolutely", TWO, None),
        ("1", TWO, None),
    ],
)
def test_an_answer_is_read_strictly(text: str, choices: tuple[str, ...], index: int | None):
    assert read_choice(text, choices) == index


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iqa": None}, "'iqa' is missing, or no task"),
        ({"hue": "<image>"}, "'hue' is missing, or no task"),
        (
            {"iqa": "<image> or what?"},
            r"'iqa': it has <image>, \{0\} and \{1\} \[1, 0, 0\] times; \[2, 0, 0\]",
        ),
        ({"it_2afc": "<image> <image>"}, r"\[2, 0, 0\] times; \[2, 1, 0\] are due"),
        ({"sharpness": "<image> <image> {0}"}, r"\[2, 1, 0\] times; \[2, 0, 0\] are due"),
    ],
)
def test_instructions_of_ones_own_must_ask_the_same(change: dict[str, str | None], reason: str):
    changed = {name: text for name, text in {**INSTRUCTIONS, **change}.items() if text is not None}
    with pytest.raises(ConfigError, match=reason):
        check_instructions(changed)
    check_instructions(INSTRUCTIONS)
