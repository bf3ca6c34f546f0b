"""Published analysis questions, all asked of each image, which the model sees once.

ArtiMuse's are those of its `eval_image.py`, UniPercept's those of its README; the wording is theirs to the
letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reward_plugin.errors import ConfigError
from reward_plugin.language.chat import Chat, Reply
from reward_plugin.types import ImageLike

_ATTRIBUTES = (
    "Composition & Design",
    "Visual Elements & Structure",
    "Technical Execution",
    "Originality & Creativity",
    "Theme & Communication",
    "Emotion & Viewer Response",
    "Overall Gestalt",
)

#: aspect -> question, for an ArtiMuse checkpoint.
ARTIMUSE_QUESTIONS: Mapping[str, str] = {
    aspect: f"Please evaluate the aesthetic quality of this image from the aspect of {aspect}."
    for aspect in (*_ATTRIBUTES, "Comprehensive Evaluation")
}

#: aspect -> question about aesthetics, for a UniPercept checkpoint.
UNIPERCEPT_AESTHETICS: Mapping[str, str] = {
    "Comprehensive": (
        "Analyze the aesthetics of this image step by step, providing a comprehensive description without "
        "assigning any score."
    ),
    **{
        aspect: f"Please evaluate the aesthetic quality of this image from the attribute of {aspect}."
        for aspect in _ATTRIBUTES
    },
}

#: aspect -> question about quality, for a UniPercept checkpoint.
UNIPERCEPT_QUALITY: Mapping[str, str] = {
    "Comprehensive": (
        "Evaluate the quality of this image step by step, offering a detailed descriptive analysis rather "
        "than a numerical score."
    ),
    **{
        aspect: f"Analyze the {aspect} of this image."
        for aspect in ("Distortion Location", "Distortion Severity", "Distortion Type")
    },
}

#: Sets of questions by name.
QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "artimuse": ARTIMUSE_QUESTIONS,
    "unipercept_aesthetics": UNIPERCEPT_AESTHETICS,
    "unipercept_quality": UNIPERCEPT_QUALITY,
}

#: What ArtiMuse's code allows an answer.
MAX_NEW_TOKENS = 8192


def questions_named(name: str) -> Mapping[str, str]:
    """A set of questions.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in QUESTIONS:
        raise ConfigError(f"questions {name!r}: there is no such set; choose one of {', '.join(QUESTIONS)}")
    return QUESTIONS[name]


def analyse(
    chat: Chat,
    images: Sequence[ImageLike],
    questions: Mapping[str, str] = ARTIMUSE_QUESTIONS,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[dict[str, Reply]]:
    """Ask every question about every image.

    Args:
        chat: the model.
        images: pictures; the vision tower and the shared prefix run once for each.
        questions: aspect -> question.
        max_new_tokens: longest answer.

    Returns:
        for each image aspect -> answer: the same as asking one at a time.
    """
    replies = chat.ask_all(images, [list(questions.values())] * len(images), max_new_tokens=max_new_tokens)
    return [dict(zip(questions, about, strict=True)) for about in replies]
