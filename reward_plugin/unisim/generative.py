"""UniSim's generative models: they are asked in words, and what they write is read.

    judge = GenerativeJudge.load("unisim_ll_n_0.5b")
    judge.choose("it_2afc", ["first.png", "other.png"], ["a red boat"])  # Answer(choice=1, text="B")

Template `qwen_1_5`, greedy, as published. Pictures go straight to the model's square, PIL bicubic. Unlike the
published code, which takes any answer that has a capital A or a 1 in it for the first choice and all others
for the second, an answer that names no one choice is none (`reward_plugin.unisim.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from reward_plugin.devices import resolve
from reward_plugin.errors import BadImage, ConfigError
from reward_plugin.scorers.batches import check_batch_size, fit_each
from reward_plugin.types import ImageLike
from reward_plugin.unisim.instructions import (
    IMAGE,
    INSTRUCTIONS,
    check_instructions,
    example_answer,
    options,
    pieces,
)
from reward_plugin.unisim.llava import MARKS, Llava, load_llava
from reward_plugin.unisim.questions import Answer, Question
from reward_plugin.unisim.reading import read_choice

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"


@dataclass(frozen=True, eq=False)
class Example:
    """A solved question, shown to the model before the one that it is asked."""

    question: Question
    choice: int


@dataclass(frozen=True)
class _Turn:
    """What a user says: the texts around pictures, and the pictures [n, 3, S, S]; and what is answered, if it
    is known.
    """

    pieces: Sequence[str]
    pixels: torch.Tensor
    answer: str | None = None


class GenerativeJudge:
    """A LLaVA-NeXT-Interleave model that answers questions about several pictures.

    Attributes:
        llava: the model and what feeds it.
    """

    def __init__(
        self,
        llava: Llava,
        batch_size: int = 8,
        *,
        max_new_tokens: int = 512,
        instructions: Mapping[str, str] = INSTRUCTIONS,
    ) -> None:
        """Take a loaded model; see `load`."""
        check_instructions(instructions)
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {max_new_tokens}: must be at least 1")
        self.llava = llava
        self.batch_size = check_batch_size(batch_size)
        self.instructions = dict(instructions)
        end = llava.tokenizer.convert_tokens_to_ids(MARKS[1])
        # all of the checkpoint's own settings are replaced: greedy is greedy whatever they say
        llava.model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end
        )

    @staticmethod
    def load(
        path: str,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
        revision: str | None = None,
        *,
        attention: str = "sdpa",
        max_new_tokens: int = 512,
        instructions: Mapping[str, str] = INSTRUCTIONS,
    ) -> GenerativeJudge:
        """Load a model.

        Args:
            path: folder or hub id, in the published layout (`LlavaQwenForCausalLM`) or in transformers'.
            device: auto, cpu, cuda or cuda:N.
            dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16; published: float16.
            batch_size: questions that are answered together.
            revision: branch, tag or commit of a hub id.
            attention: attention implementation of transformers.
            max_new_tokens: where an answer is cut.
            instructions: what is asked; see `reward_plugin.unisim.instructions`.

        Raises:
            CheckpointError: the model cannot be loaded.
            ConfigError: an option is wrong.
        """
        check_instructions(instructions)
        where, precision = resolve(device, dtype)
        llava = load_llava(path, device=where, dtype=precision, attention=attention, revision=revision)
        return GenerativeJudge(llava, batch_size, max_new_tokens=max_new_tokens, instructions=instructions)

    def ask(self, images: Sequence[ImageLike], instruction: str) -> str:
        """What the model answers, in words.

        Args:
            images: in the order in which they are shown.
            instruction: what is asked. Each `<image>` in it stands for the next picture; without any, they
                are shown before it.

        Raises:
            BadImage: a picture cannot be read.
            ConfigError: not as many `<image>` as pictures, or a mark of the template in the text.
        """
        text = instruction if IMAGE in instruction else IMAGE * len(images) + instruction
        parts = text.split(IMAGE)
        if len(parts) != len(images) + 1:
            raise ConfigError(f"{len(parts) - 1} {IMAGE} in the instruction for {len(images)} images")
        pixels, error = self._see(images)
        if error:
            raise BadImage(error)
        if error := _marked(parts) or self._too_long([_Turn(parts, pixels)]):
            raise ConfigError(error)
        return self._generate([[_Turn(parts, pixels)]])[0]

    def choose(
        self,
        task: str,
        images: Sequence[ImageLike],
        texts: Sequence[str] = (),
        attribute: str | None = None,
        examples: Sequence[Example] = (),
    ) -> Answer:
        """Answer one question; see `reward_plugin.unisim.questions` for the tasks, and `answer` for many."""
        return self.answer([Question(task, images, texts, attribute)], examples)[0]

    def answer(self, questions: Sequence[Question], examples: Sequence[Example] = ()) -> list[Answer]:
        """Answer questions, in batches.

        One whose picture cannot be read, or whose text has a mark of the template in it, has an error, and
        costs only itself.

        Args:
            questions: of any tasks.
            examples: solved questions, shown before each of them as earlier turns of the conversation.

        Raises:
            ConfigError: an example cannot be shown.
        """
        shown = [self._shown(example) for example in examples]
        answers: list[Answer | None] = [None] * len(questions)
        batch: list[tuple[int, list[_Turn]]] = []
        for i, question in enumerate(questions):
            turns, error = self._asked(question, shown)
            if error:
                answers[i] = Answer(None, error=error)
            else:
                batch.append((i, turns))
            if batch and (len(batch) == self.batch_size or i == len(questions) - 1):
                texts = self._generate([turns for _, turns in batch])
                for (at, _), text in zip(batch, texts, strict=True):
                    answers[at] = Answer(read_choice(text, options(questions[at])), text=text)
                batch = []
        return [answer for answer in answers if answer is not None]

    def _asked(self, question: Question, shown: Sequence[_Turn]) -> tuple[list[_Turn], str | None]:
        """The conversation up to a question's answer; or why it cannot be asked."""
        pixels, error = self._see(question.images)
        if error := error or _marked(question.texts):
            return [], error
        turns = [*shown, _Turn(pieces(question, self.instructions), pixels)]
        return turns, self._too_long(turns)

    def _shown(self, example: Example) -> _Turn:
        answer = example_answer(example.question, example.choice, self.instructions)
        turns, error = self._asked(example.question, ())
        if error:
            raise ConfigError(f"example: {error}")
        return _Turn(turns[0].pieces, turns[0].pixels, answer)

    def _see(self, images: Sequence[ImageLike]) -> tuple[torch.Tensor, str | None]:
        """Pictures as the model sees them; or why one of them cannot be read."""
        good, errors = fit_each(images)
        if error := next(filter(None, errors), None):
            return torch.empty(0), error
        if not good:
            return torch.empty(0), None
        return self.llava.processor(good, return_tensors="pt").pixel_values, None

    def _tokens(self, turns: Sequence[_Turn]) -> list[int]:
        """A conversation as ids; a picture is so many of the image token."""
        tokenizer, picture = self.llava.tokenizer, [self.llava.image_token] * self.llava.image_tokens
        ids: list[int] = []
        before = SYSTEM
        for turn in turns:
            parts = list(turn.pieces)
            parts[0] = before + USER + parts[0]
            parts[-1] += END + ASSISTANT
            for i, part in enumerate(parts):  # each by itself, as published
                ids += (picture if i else []) + tokenizer(part, add_special_tokens=False).input_ids
            before = f"{turn.answer}{END}"
        return ids

    def _too_long(self, turns: Sequence[_Turn]) -> str | None:
        length, most = len(self._tokens(turns)), self.llava.model.config.text_config.max_position_embeddings
        return (
            f"{length} tokens are more than the model's {most}; show fewer examples"
            if length > most
            else None
        )

    def _generate(self, conversations: Sequence[Sequence[_Turn]]) -> list[str]:
        """What the model writes next in each conversation."""
        model, tokenizer = self.llava.model, self.llava.tokenizer
        prompts = [self._tokens(turns) for turns in conversations]
        longest = max(map(len, prompts))
        pad = model.generation_config.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        real = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        seen = [turn.pixels for turns in conversations for turn in turns if len(turn.pixels)]
        pixels = {"pixel_values": torch.cat(seen).to(model.device, model.dtype)} if seen else {}
        with torch.inference_mode():
            written = model.generate(
                input_ids=ids.to(model.device), attention_mask=real.to(model.device), **pixels
            )
        return [
            text.strip() for text in tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
        ]


def _marked(texts: Sequence[str]) -> str | None:
    """Why texts cannot be part of a prompt: they would end a turn, or stand for a picture."""
    for text in texts:
        for mark in (*MARKS, "<|endoftext|>", IMAGE):
            if mark in text:
                return f"the text {text[:60]!r} has {mark} in it, a mark of the prompt itself; take it out"
    return None
