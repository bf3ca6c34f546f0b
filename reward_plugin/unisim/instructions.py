"""What UniSim asks a generative model, task by task.

The texts are the published code's to the letter, spaces and missing full stops included: the published model
was tuned on them. The paper's Table 7 prints some of them with other punctuation; a mapping of one's own, in
the form of `INSTRUCTIONS`, asks them so.

`<image>` stands for the next picture, `{0}` and `{1}` for the texts. `nafc` is published for three pictures.
Two are asked for as in `it_2afc`, more than three in the words that three are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from reward_plugin.errors import ConfigError
from reward_plugin.unisim.prompts import ATTRIBUTES
from reward_plugin.unisim.questions import SHAPES, Question

IMAGE = "<image>"
_CHOICE = "Answer the following multiple-choice question:\n"
_TWO = _CHOICE + "Given two images: image 1 <image> and image 2 <image>."
_TWO_OPTIONS = "\nOptions:\n(A) Image 1\n(B) Image 2"
#: Task, or attribute for `paa`, -> what is asked.
INSTRUCTIONS: Mapping[str, str] = {
    "img_2afc": _CHOICE
    + "Here are three images: <image> <image> <image>. If image 1 is the reference image, which image of the "
    "other two is more similar to the reference image?\nOptions:\n(A) Image 2\n(B) Image 3",
    "it_2afc": "Answer the following question:\nHere are two images: <image> <image>, and here is the "
    'reference caption: "{0}". which of the two images is more aligned to the reference caption?'
    + _TWO_OPTIONS,
    "text_2afc": _CHOICE + ' Given the reference image: <image>. and two captions, caption 1: "{0}", '
    'caption 2: "{1}" \nwhich caption has a better alignment with the reference image?  \n'
    "\nOptions:\n(A) Caption 1\n(B) Caption 2",
    "iqa": _TWO + "which image has a better quality?\n" + _TWO_OPTIONS,
    "brightness": _TWO + " which image is brighter?" + _TWO_OPTIONS,
    "colorfulness": _TWO + " which image is more colorful?" + _TWO_OPTIONS,
    "contrast": _TWO + " which image has more contrast?" + _TWO_OPTIONS,
    "sharpness": _TWO + " which image is sharper in color?" + _TWO_OPTIONS,
    "ooo": _CHOICE + "Here are three images: <image> <image> <image>Which one (A, B, C) is the odd-one-out "
    "of the group?\nOptions:\n(A) Image 1\n(B) Image 2\n(C)Image 3",
    "nafc": _CHOICE + "Here are three images: <image> <image> <image>, and here is the reference caption: "
    '"{0}". which of the three images is more aligned to the reference caption?',
}
_PLACE = re.compile(r"\{([01])\}")
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def check_instructions(instructions: Mapping[str, str]) -> None:
    """ConfigError where one is missing, unknown, or has other pictures and texts than its task."""
    if wrong := sorted(INSTRUCTIONS.keys() ^ instructions.keys()):
        raise ConfigError(
            f"instructions: {wrong[0]!r} is missing, or no task; write {', '.join(INSTRUCTIONS)}"
        )
    for name, text in instructions.items():
        images, texts = SHAPES["paa" if name in ATTRIBUTES else name]
        there = [text.count(IMAGE), *(text.count(place) for place in ("{0}", "{1}"))]
        due = [3 if images is None else images, *(int(i < texts) for i in range(2))]
        if there != due:
            raise ConfigError(
                f"instruction {name!r}: it has {IMAGE}, {{0}} and {{1}} {there} times; {due} are due"
            )


def pieces(question: Question, instructions: Mapping[str, str] = INSTRUCTIONS) -> list[str]:
    """The text before, between and after the pictures of a question: one more piece than pictures.

    A text that is asked about goes in as it is, whatever it says.
    """
    count = len(question.images)
    template = instructions[question.attribute or question.task]
    if question.task == "nafc" and count == 2:
        template = instructions["it_2afc"]
    elif question.task == "nafc":
        number = _NUMBERS[count - 2] if count - 2 < len(_NUMBERS) else str(count)
        template = template.replace("three", number).replace(" ".join([IMAGE] * 3), " ".join([IMAGE] * count))
    return [_PLACE.sub(lambda place: question.texts[int(place[1])], piece) for piece in template.split(IMAGE)]


def options(question: Question) -> tuple[str, ...]:
    """What the choices are called in the instruction."""
    name, first = ("Caption", 1) if question.task == "text_2afc" else ("Image", 1)
    if question.task == "img_2afc":
        first = 2  # image 1 is the reference
    return tuple(f"{name} {first + i}" for i in range(question.choices))


def example_answer(question: Question, choice: int, instructions: Mapping[str, str] = INSTRUCTIONS) -> str:
    """The answer of a solved example: a letter, where the instruction has letters, or the option's name."""
    if not 0 <= choice < question.choices:
        raise ConfigError(f"example: choice {choice} of a question with {question.choices} choices")
    lettered = any("(A" in piece for piece in pieces(question, instructions))
    return chr(ord("A") + choice) if lettered else options(question)[choice]
