"""The choice in what a generative model wrote: read strictly, so that what names no one choice is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: A letter that is the whole answer, or begins it like the head of a list: `A`, `(A)`, `A.`, `A: Image 1`.
_ALONE = re.compile(r"\(?([A-Za-z])\)?[.:,)]?")
_HEAD = re.compile(r"([A-Z])(?:[.:,)](?:\s|$)|\s+(?=(?:Image|Caption)\b))")
#: A letter in parentheses, or after the word that announces it. A is a word as well, so it must end there.
_MARKED = re.compile(
    r"\(([A-Za-z])\)"
    r"|\b(?i:answer|option|choice)(?: is)?:?\s+(A(?=\s*(?:[.,:;)\n]|$))|[B-Z]\b(?!['’]))"
)


def read_choice(text: str, options: Sequence[str]) -> int | None:
    """Index of the one choice that an answer names, or None.

    A choice is named by its letter (`B`, `(B)`, `B.`, `the answer is B`) or in the instruction's words
    (`Image 2`). The first line counts; where it names none, all of the text. Naming two choices is naming
    none. A letter within a sentence is no choice: "A dog" does not choose A.

    Args:
        text: what the model wrote.
        options: what the choices are called, in order; A is the first.
    """
    whole = text.strip()
    for part in (whole.partition("\n")[0], whole):
        if named := _named(part, options):
            return named.pop() if len(named) == 1 else None
    return None


def _named(text: str, options: Sequence[str]) -> set[int]:
    """Indices of all choices that are named in a text."""
    letters = [match[1] for match in (_ALONE.fullmatch(text), _HEAD.match(text)) if match]
    letters += [a or b for a, b in _MARKED.findall(text)]
    found = {ord(letter.upper()) - ord("A") for letter in letters}
    found |= {
        i for i, option in enumerate(options) if re.search(rf"\b{re.escape(option)}\b", text, re.IGNORECASE)
    }
    return {i for i in found if i < len(options)}
