"""Files of questions, read so that nothing gets lost unseen: what cannot be asked is kept with its reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.rating_data import Unusable, read_entries
from eval.vqa_config import QuestionSet
from eval.vqa_sets import FIELDS, PUBLISHED, plain_name
from reward_plugin.language.vqa import options, read_letter


@dataclass(frozen=True)
class Question:
    """A question that can be asked.

    Attributes:
        image: As the file names it.
        path: Where it should lie.
        text: With its options.
        answer: The right letter.
        choices: How many options it has; 4 where it lists none.
        about: Domain, category, criterion and template, as far as known.
    """

    image: str
    path: str
    text: str
    answer: str
    choices: int
    about: Mapping[str, str]


@dataclass(frozen=True)
class QuestionData:
    """What a file holds.

    Attributes:
        domain: Its name.
        place: Where it was read.
        rows: Entries in the file.
        questions: Those that can be asked, in order.
        unusable: Those that cannot be.
        fields: Attribute -> the key that held it; None where no key did.
        keys: All keys of its entries.
        sha256: Of the file.
        notes: What a reader must know, one sentence each.
        problem: Why the file could not be read at all; None where it was.
    """

    domain: str
    place: QuestionSet
    rows: int = 0
    questions: tuple[Question, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    fields: Mapping[str, str | None] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    sha256: str = ""
    notes: tuple[str, ...] = ()
    problem: str | None = None


def read_questions(domain: str, place: QuestionSet, keys: Mapping[str, str]) -> QuestionData:
    """Read a file.

    Args:
        domain: What its questions are counted as, unless they say themselves.
        place: Where it is.
        keys: Attribute -> key, for those that the config names.

    Raises:
        ValueError: a key that the config names is in no entry.
    """
    assert place.data is not None
    try:
        content = Path(place.data).read_bytes()
        entries = read_entries(content, place.data, '{"image": NAME, "question": TEXT, "answer": LETTER}')
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return QuestionData(domain, place, problem=f"{place.data}: {reason}")
    names = tuple(dict.fromkeys(key for _, entry in entries if isinstance(entry, dict) for key in entry))
    found = {attribute: _key(attribute, names, keys, place.data) for attribute in FIELDS}
    questions: list[Question] = []
    unusable: list[Unusable] = []
    for where, entry in entries:
        read = _question(entry, where, domain, found, place)
        if isinstance(read, Question):
            questions.append(read)
        else:
            unusable.append(read)
    notes = []
    if domain in PUBLISHED and len(entries) != PUBLISHED[domain].questions:
        notes.append(
            f"{domain} has {len(entries)} questions here and {PUBLISHED[domain].questions} in the published "
            "benchmark: the published figures are of other questions"
        )
    for attribute in ("category", "criterion", "template"):
        if found[attribute] is None:
            notes.append(
                f"no key of {place.data} says the {attribute} ({', '.join(names)}); if one does, name it: "
                f"fields.{attribute}"
            )
    digest = hashlib.sha256(content).hexdigest()
    return QuestionData(
        domain, place, len(entries), tuple(questions), tuple(unusable), found, names, digest, tuple(notes)
    )


def _key(attribute: str, names: Sequence[str], keys: Mapping[str, str], data: str) -> str | None:
    if attribute in keys:
        if keys[attribute] not in names:
            raise ValueError(
                f"fields.{attribute}: no entry of {data} has the key {keys[attribute]!r}; there are "
                f"{', '.join(names)}"
            )
        return keys[attribute]
    plain = {plain_name(name): name for name in names}
    return next((plain[plain_name(alias)] for alias in FIELDS[attribute] if plain_name(alias) in plain), None)


def _question(
    entry: object, where: str, domain: str, keys: Mapping[str, str | None], place: QuestionSet
) -> Question | Unusable:
    if isinstance(entry, ValueError):
        return Unusable(where, None, str(entry))
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
        return Unusable(
            where, None, 'no "image"; an entry is {"image": NAME, "question": TEXT, "answer": LETTER}'
        )
    image, text = entry["image"], entry.get("question")
    if not isinstance(text, str) or not text.strip():
        return Unusable(
            where, image, f'"question" is {text!r}; it must be a text with its options, one a line'
        )
    listed = options(text)
    answer = _letter(entry.get("answer"), text, listed)
    if answer is None:
        allowed = ", ".join(listed) or "A, B, C, D"
        return Unusable(where, image, f'"answer" is {entry.get("answer")!r}; it must be one of {allowed}')
    about = {"domain": domain} | {
        attribute: str(entry[key])
        for attribute, key in keys.items()
        if key is not None and entry.get(key) not in (None, "")
    }
    return Question(image, _find(image, place), text, answer, len(listed) or 4, about)


def _letter(answer: Any, text: str, listed: Mapping[str, str]) -> str | None:
    """The right letter, given as a letter, with its option, or as an option's text."""
    if not isinstance(answer, str):
        return None
    letter, _ = read_letter(answer, text)
    if letter is not None:
        return letter
    meant = [key for key, option in listed.items() if option.casefold() == answer.strip().casefold()]
    return meant[0] if len(meant) == 1 else None


def _find(image: str, place: QuestionSet) -> str:
    if place.images is not None:
        return os.path.join(place.images, image)
    assert place.data is not None
    folder = os.path.dirname(place.data)
    tried = [os.path.join(folder, name, image) for name in ("images", "image", "")] + [image]
    return next((path for path in tried if os.path.isfile(path)), tried[2])
