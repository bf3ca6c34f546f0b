"""The published questions and the conversation they are asked in, to the byte.

Sources: `modeling_unipercept.py`, `modeling_artimuse.py`, `conversation.py` and `aes_tokens.py` of the
published code. The wording of a question is part of the model: its typing slips are kept.
"""

from __future__ import annotations

import logging
import string
import threading
from collections.abc import Mapping

log = logging.getLogger(__name__)

IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"

#: System turn of the `internvl2_5` template, sent when the checkpoint's config does not have its own.
SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)

_UNIPERCEPT = (
    "<image>Rate the {subject} score of the image in 0-100. In the output format, numbers are replaced by 2 "
    "corresponding letters, and the mapping relationship is: "
    "score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az, \n"
    "score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy, \n"
    "score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy, \n"
    "score 76 to 100: 76-ea, 77-eb, 73-ec, 74-ed, ..., 100-ey. \n"
    "The answer only outputs 2 corresponding letters."
)

#: dimension -> question, for a UniPercept checkpoint.
UNIPERCEPT_QUESTIONS: Mapping[str, str] = {
    "iaa": _UNIPERCEPT.format(subject="aesthetics"),
    "iqa": _UNIPERCEPT.format(subject="quality"),
    "ista": _UNIPERCEPT.format(subject="structure and texture richness"),
}

#: dimension -> question, for an ArtiMuse checkpoint. In the published code it is a triple-quoted string
#: inside a method, so the line breaks, the indentation and the spaces before some line breaks reach the
#: model.
ARTIMUSE_QUESTIONS: Mapping[str, str] = {
    "artimuse": "\n"
    "        Rate the aesthetics score of the image in 0-100. \n"
    "        In the output format, numbers are replaced by 2 corresponding letters, \n"
    "        and the mapping relationship is: \n"
    "        score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az,\n"
    "        score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy,\n"
    "        score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy,\n"
    "        score 76 to 100: 76-ea, 77-eb, 78-ec, 79-ed, ..., 100-ey.\n"
    "\n"
    "        The answer only outputs 2 corresponding letters.\n"
    "        "
}

#: The 101 answers: position in this tuple is the score, 0 (`aa`) to 100 (`ey`).
LETTER_TOKENS: tuple[str, ...] = tuple(
    first + second
    for first, seconds in (("a", 26), ("c", 25), ("d", 25), ("e", 25))
    for second in string.ascii_lowercase[:seconds]
)


def conversation(question: str, num_image_tokens: int, system_message: str | None) -> str:
    """The text of one user turn about one image, up to where the answer starts.

    Args:
        question: where it has no `<image>`, `<image>` and a line break are put before it, as published.
        num_image_tokens: how many `<IMG_CONTEXT>` stand for the image.
        system_message: the system turn. None is sent as the text "None", as the published code does with a
            config that says `"system_message": null`.
    """
    if "<image>" not in question:
        question = "<image>\n" + question
    turns = (
        f"<|im_start|>system\n{system_message}<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    return turns.replace("<image>", IMAGE_START + IMAGE_CONTEXT * num_image_tokens + IMAGE_END, 1)


_logged: set[str] = set()
_logging = threading.Lock()


def log_prompt(text: str) -> bool:
    """Log a final prompt, its image tokens counted instead of repeated, the first time this process sends it.

    The prompt decides the scores, and the system turn in it depends on whether a config has a key: so it can
    be read in the log, once however many scorers share it.

    Args:
        text: what `conversation` returned.

    Returns:
        whether it was new.
    """
    count = text.count(IMAGE_CONTEXT)
    short = text.replace(IMAGE_CONTEXT * count, f"{IMAGE_CONTEXT}*{count}") if count else text
    with _logging:
        if short in _logged:
            return False
        _logged.add(short)
    log.info("prompt: %r", short)
    return True
