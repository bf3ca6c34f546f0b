"""Multiple-choice questions about images, answered by letter.

Three readings of the same answer, never mixed:

* published: what `eval_vqa.py` of the published code takes for the answer: the first character of the
  trimmed, upper-cased text. It reads "Because of the light" as B and "A dog" as A.
* letter: a strict reading, `read_letter`, that says "no answer" rather than guess.
* by likelihood: the option whose letter is the likeliest first token. One forward pass, nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reward_plugin.checkpoint import token_ids
from reward_plugin.errors import ConfigError
from reward_plugin.language.chat import MAX_NEW_TOKENS, Chat
from reward_plugin.types import ImageLike

#: `eval_vqa.py` of the published code, to the byte.
INSTRUCTION = (
    "Given the image and the following multiple-choice question, choose the best answer. "
    "Only reply with the letter (A, B, C, or D).\n\nQuestion:\n\n"
)

#: Letters that the instruction names; they count where a question does not list its options.
DEFAULT_LETTERS = ("A", "B", "C", "D")

_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s*(.*?)\s*$", re.MULTILINE)
#: "B", "(B)", "B.", "B) top", "Answer: B", "The answer is B.": a letter that stands as one.
_STATED = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|best\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*)?"
    r"[(\[]?([A-Z])(?:[)\].:,]+(?:\s+(.*))?)?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Answer:
    """What was answered to one question.

    Attributes:
        response: the text, or "" where the answer was read from likelihoods.
        published: the published code's reading; "" for an empty response.
        letter: the strict reading; None for no answer.
        problem: why there is no letter.
        probabilities: of each option's letter among the options, where likelihoods were read.
        letter_mass: how probable it is that the answer starts with any option's letter, where they were read.
    """

    response: str
    published: str
    letter: str | None
    problem: str | None = None
    probabilities: Mapping[str, float] | None = None
    letter_mass: float | None = None


def options(question: str) -> dict[str, str]:
    """Letter -> text of the options that a question lists, one a line: "A. left", "B) right", "(C) top".

    Only a list that starts at A and leaves out no letter counts; otherwise nothing is found.
    """
    found = {letter: text for letter, text in _OPTION.findall(question)}
    in_order = [chr(ord("A") + index) for index in range(len(found))]
    return found if len(found) > 1 and list(found) == in_order else {}


def read_letter(response: str, question: str = "") -> tuple[str | None, str | None]:
    """The letter that a response states, or why there is none.

    A response states a letter when it is nothing but the letter, bracketed or with punctuation, perhaps after
    "answer:" or "the answer is"; the option's own text, or a new line and anything, may follow. It must be
    among the question's options, or A to D where it lists none. Lower case counts only alone.

    Returns:
        (letter, None) or (None, the reason).
    """
    listed = options(question)
    allowed = tuple(listed) or DEFAULT_LETTERS
    text = response.strip().strip("*\"'` ")
    if not text:
        return None, "the response is empty"
    first, _, _ = text.partition("\n")
    stated = _STATED.fullmatch(first.strip().strip("*\"'` "))
    if stated is None:
        return None, f"{_short(response)} does not state a letter alone"
    letter, rest = stated.group(1), (stated.group(2) or "").strip()
    if letter.islower() and first.strip() != letter:
        return None, f"{_short(response)} does not state a letter alone"
    letter = letter.upper()
    if letter not in allowed:
        return None, f"{letter} is not among the options {', '.join(allowed)}"
    if rest and _plain(rest) != _plain(listed.get(letter, "")):
        return None, f"what follows {letter} in {_short(response)} is not that option's text"
    return letter, None


def answer(
    chat: Chat,
    images: Sequence[ImageLike | None],
    questions: Sequence[Sequence[str]],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[Answer]]:
    """Answer the questions about each image in writing; each image is seen once.

    Args:
        chat: the model.
        images: pictures.
        questions: for each picture its questions, options included, one a line.
        max_new_tokens: longest response.
    """
    prompts = [[INSTRUCTION + question for question in about] for about in questions]
    replies = chat.ask_all(images, prompts, max_new_tokens=max_new_tokens)
    return [
        [
            Answer(reply.text, reply.text.strip().upper()[:1], *read_letter(reply.text, question))
            for reply, question in zip(written, about, strict=True)
        ]
        for written, about in zip(replies, questions, strict=True)
    ]


def answer_by_likelihood(
    chat: Chat, images: Sequence[ImageLike | None], questions: Sequence[Sequence[str]]
) -> list[list[Answer]]:
    """Answer each question by the likeliest letter of its options: one forward pass, nothing is written."""
    prompts = [[INSTRUCTION + question for question in about] for about in questions]
    answers: list[list[Answer]] = []
    for about, logits in zip(questions, chat.next_logits(images, prompts), strict=True):
        answers.append([])
        for question, row in zip(about, logits, strict=True):
            letters = tuple(options(question)) or DEFAULT_LETTERS
            ids = token_ids(chat.checkpoint.tokenizer, letters, "the letters of the options are weighed")
            mass = row.softmax(-1)[ids]
            shares = row[ids].softmax(-1).tolist()
            best = letters[max(range(len(letters)), key=shares.__getitem__)]
            shown = dict(zip(letters, shares, strict=True))
            answers[-1].append(Answer("", "", best, None, shown, float(mass.sum())))
    return answers


def check_question(question: object, where: str) -> str:
    """A question as text.

    Raises:
        ConfigError: it is not a text with something in it.
    """
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(
            f"{where}: question is {question!r}; it must be a text with its options, one a line"
        )
    return question


def _plain(text: str) -> str:
    return " ".join(text.casefold().rstrip(".").split())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
