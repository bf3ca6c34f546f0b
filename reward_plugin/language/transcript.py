"""A conversation as text, as the published `chat` writes it: template `internvl2_5`, MPT style."""

from __future__ import annotations

from collections.abc import Sequence

from reward_plugin.errors import ConfigError
from reward_plugin.prompting import IMAGE_CONTEXT, IMAGE_END, IMAGE_START

#: Ends every turn; a model that writes it has finished its answer.
TURN_END = "<|im_end|>"

#: Questions and answers so far, as they were asked and answered.
History = Sequence[tuple[str, str]]


def transcript(
    question: str,
    *,
    history: History = (),
    image: bool,
    num_image_tokens: int,
    system_message: str | None,
) -> str:
    """All turns up to where the next answer starts.

    Args:
        question: what is asked now.
        history: earlier questions and answers about the same image.
        image: whether there is one. It stands where a question says `<image>`, and on a line of its own
            before the first question where none does. Without an image, `<image>` is text like any other.
        num_image_tokens: how many `<IMG_CONTEXT>` stand for the image.
        system_message: the system turn; None is sent as the text "None", as the published code does.

    Raises:
        ConfigError: a question without text; the published code would leave its turn open.
    """
    questions = [*(asked for asked, _ in history), question]
    if not all(asked.strip() for asked in questions):
        raise ConfigError("a question is empty; ask something about the image")
    if image and not any("<image>" in asked for asked in questions):
        questions[0] = "<image>\n" + questions[0]
    text = f"<|im_start|>system\n{system_message}{TURN_END}\n"
    for asked, answered in zip(questions, [*(answer for _, answer in history), None], strict=True):
        text += f"<|im_start|>user\n{asked}{TURN_END}\n<|im_start|>assistant\n"
        if answered is not None:
            text += f"{answered}{TURN_END}\n"
    if not image:
        return text
    before, _, after = text.partition("<image>")
    if IMAGE_CONTEXT in before:
        raise ConfigError(f"{IMAGE_CONTEXT} stands for the image; it cannot be written before <image>")
    return before + IMAGE_START + IMAGE_CONTEXT * num_image_tokens + IMAGE_END + after
