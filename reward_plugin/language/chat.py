"""Chat with a UniPercept or ArtiMuse checkpoint about images, greedily as published or by sampling.

chat = Chat(load_checkpoint("pocket/weights/unipercept"))
reply = chat.ask("photo.jpg", "Analyze the Distortion Type of this image.", max_new_tokens=200)
print(reply.text)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2Tokenizer

from reward_plugin.checkpoint import Checkpoint, token_ids
from reward_plugin.errors import ConfigError
from reward_plugin.images import to_rgb
from reward_plugin.internvl import pixel_values
from reward_plugin.language.decoding import Continuation, Sampling, write
from reward_plugin.language.transcript import TURN_END, History, transcript
from reward_plugin.prompting import IMAGE_CONTEXT, log_prompt
from reward_plugin.types import ImageLike

#: What the published code allows an answer.
MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: without special tokens, trimmed, as the published code returns it.
        finished: whether the model ended the answer itself; False where `max_new_tokens` cut it off.
        num_tokens: how long it is.
    """

    text: str
    finished: bool
    num_tokens: int

    def __str__(self) -> str:
        """The text alone."""
        return self.text


@dataclass(frozen=True)
class _Asked:
    """A question as it goes into a batch: which image, which number, which tokens."""

    image: int
    number: int
    tokens: list[int]


def plain_text(tokenizer: Qwen2Tokenizer, tokens: Sequence[int]) -> str:
    """Tokens as the published slow tokenizer decodes them: named special tokens are left out, `<img>` is not.

    Both kinds are marked special, and a tokenizer of today would leave out both.
    """
    named = set(tokenizer.all_special_ids)
    return tokenizer.decode([token for token in tokens if token not in named], skip_special_tokens=False)


class Chat:
    """Asks a checkpoint questions about images, and about none."""

    def __init__(
        self, checkpoint: Checkpoint, *, system_message: str | None = None, batch_size: int = 8
    ) -> None:
        """Take a loaded checkpoint.

        Args:
            checkpoint: model and tokenizer.
            system_message: replaces the checkpoint's own (see `Checkpoint.system_message`) where given.
            batch_size: answers written at once; the questions about one image stay together even beyond it.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: it must be at least 1")
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self._system = checkpoint.system_message if system_message is None else system_message
        (self._stop,) = token_ids(checkpoint.tokenizer, (TURN_END,), "it ends an answer")
        (self._image_token,) = token_ids(checkpoint.tokenizer, (IMAGE_CONTEXT,), "it stands for the image")

    def ask(
        self,
        image: ImageLike | None,
        prompt: str,
        *,
        history: History = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one question.

        Args:
            image: any form of picture that scorers take, or None to talk without one.
            prompt: the question; it may say where the image stands with `<image>`.
            history: earlier questions and answers about this image.
            max_new_tokens: longest answer.
            sampling: draw the answer; None takes the likeliest token each time, as published.
            on_text: called with each new piece of text as soon as it is sure.

        Raises:
            BadImage, ConfigError: the image or the question cannot be used.
        """
        listen = _Listener(self.checkpoint.tokenizer, on_text) if on_text is not None else None
        ((reply,),) = self._answer([image], [[(prompt, history)]], max_new_tokens, sampling, listen)
        if listen is not None:
            listen.end()
        return reply

    def ask_each(
        self,
        images: Sequence[ImageLike | None],
        prompts: Sequence[str],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        sampling: Sampling | None = None,
    ) -> list[Reply]:
        """Answer one question about each image, in batches.

        Raises:
            BadImage, ConfigError: an image or a question cannot be used; nothing is answered.
        """
        questions = [[(prompt, ())] for prompt in prompts]
        return [reply for (reply,) in self._answer(images, questions, max_new_tokens, sampling)]

    def ask_all(
        self,
        images: Sequence[ImageLike | None],
        prompts: Sequence[Sequence[str]],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        sampling: Sampling | None = None,
    ) -> list[list[Reply]]:
        """Answer several questions about each image, which the model sees once.

        Args:
            images: any forms of pictures, or None.
            prompts: the questions about each image, as many as wished.
            max_new_tokens: longest answer.
            sampling: draw the answers; None takes the likeliest token each time, as published.

        Returns:
            the answers about each image. They do not depend on what else is asked, but for the last bits of
            float arithmetic.
        """
        questions = [[(prompt, ()) for prompt in about] for about in prompts]
        return self._answer(images, questions, max_new_tokens, sampling)

    @torch.inference_mode()
    def next_logits(
        self, images: Sequence[ImageLike | None], prompts: Sequence[Sequence[str]]
    ) -> list[list[torch.Tensor]]:
        """Logits of the first token of each answer, float32 [vocabulary], one forward pass a batch."""
        asked = self._asked(images, [[(prompt, ()) for prompt in about] for about in prompts])
        logits: dict[int, torch.Tensor] = {}
        for batch in self._batches(images, asked):
            rows = self._start(images, batch).logits.cpu()
            logits |= {question.number: row for question, row in zip(batch, rows, strict=True)}
        return [[logits[question.number] for question in about] for about in asked]

    @torch.inference_mode()
    def _answer(
        self,
        images: Sequence[ImageLike | None],
        questions: Sequence[Sequence[tuple[str, History]]],
        max_new_tokens: int,
        sampling: Sampling | None,
        listen: _Listener | None = None,
    ) -> list[list[Reply]]:
        asked = self._asked(images, questions)
        replies: dict[int, Reply] = {}
        for batch in self._batches(images, asked):
            answers, finished = write(
                self._start(images, batch),
                stop=self._stop,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                numbers=[question.number for question in batch],
                on_token=listen,
            )
            for question, answer, whole in zip(batch, answers, finished, strict=True):
                text = plain_text(self.checkpoint.tokenizer, answer).strip()
                replies[question.number] = Reply(text, whole, len(answer))
        return [[replies[question.number] for question in about] for about in asked]

    def _asked(
        self,
        images: Sequence[ImageLike | None],
        questions: Sequence[Sequence[tuple[str, History]]],
    ) -> list[list[_Asked]]:
        """The questions about each image, numbered and as tokens."""
        if len(images) != len(questions):
            raise ConfigError(f"{len(images)} images but prompts for {len(questions)}: give as many of each")
        number = itertools.count()
        return [
            [_Asked(index, next(number), self._tokens(prompt, history, image)) for prompt, history in about]
            for index, (image, about) in enumerate(zip(images, questions, strict=True))
        ]

    def _tokens(self, prompt: str, history: History, image: ImageLike | None) -> list[int]:
        text = transcript(
            prompt,
            history=history,
            image=image is not None,
            num_image_tokens=self.checkpoint.num_image_tokens,
            system_message=self._system,
        )
        log_prompt(text)
        return self.checkpoint.tokenizer(text).input_ids

    def _batches(
        self, images: Sequence[ImageLike | None], asked: Sequence[Sequence[_Asked]]
    ) -> Iterator[list[_Asked]]:
        """Questions in batches whose tokens are alike up to the end of the image.

        That is almost always all of them: a history, or an `<image>` inside the question, sets one apart.
        """
        alike: dict[tuple[int, ...], list[list[_Asked]]] = {}
        for image, about in zip(images, asked, strict=True):
            mine: dict[tuple[int, ...], list[_Asked]] = {}
            for question in about:
                end = 0
                if image is not None:
                    end = question.tokens.index(self._image_token) + self.checkpoint.num_image_tokens
                mine.setdefault(tuple(question.tokens[:end]), []).append(question)
            for head, together in mine.items():
                alike.setdefault(head, []).append(together)
        for per_image in alike.values():
            batch: list[_Asked] = []
            for together in per_image:
                if batch and len(batch) + len(together) > self.batch_size:
                    yield batch
                    batch = []
                batch = [*batch, *together]
            yield batch

    def _start(self, images: Sequence[ImageLike | None], batch: Sequence[_Asked]) -> Continuation:
        model = self.checkpoint.model
        seen = list(dict.fromkeys(asked.image for asked in batch))
        pictures = [to_rgb(picture) for index in seen if (picture := images[index]) is not None]
        prompts = [asked.tokens for asked in batch]
        if not pictures:
            return Continuation(model, prompts, [0] * len(batch), None)
        pixels = pixel_values(pictures, self.checkpoint.image_size).to(model.device, model.dtype)
        features = model.model.get_image_features(pixels, return_dict=True).pooler_output
        return Continuation(model, prompts, [seen.index(asked.image) for asked in batch], features)


class _Listener:
    """Turns tokens into text as they come; a character whose bytes are not all there waits."""

    def __init__(self, tokenizer: Qwen2Tokenizer, on_text: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._tokens: list[int] = []
        self._told = ""

    def __call__(self, row: int, token: int) -> None:
        """Take the next token."""
        self._tokens.append(token)
        self._tell(self._text().rstrip("\ufffd"))

    def end(self) -> None:
        """Tell what was held back."""
        self._tell(self._text())

    def _text(self) -> str:
        return plain_text(self._tokenizer, self._tokens)

    def _tell(self, text: str) -> None:
        if len(text) > len(self._told):
            self._on_text(text[len(self._told) :])
            self._told = text
