"""Rate images with one InternVL model: each image seen once, all questions answered in one pass.

The published code asks each question in a forward pass of its own, vision tower included. The questions
share the system turn, the image and the first words (300 of about 500 tokens), so here a batch is scored
as one sequence

    [ shared prefix | rest of question 1 | rest of question 2 | ... ]

in which the rests see the prefix and themselves, but not each other, and count their positions from the
end of the prefix. Every token then computes what it computes in a pass of its own (`decoder.py`). The
language head runs only where the answers are read, over the 101 letter tokens; the softmax and its
expectation are float32 whatever the model's dtype, unless the published rounding is asked for. For a GPU,
pictures are decoded and resized in threads while it works on earlier ones (`prepare.py`).

Shapes: B images, K questions, P prefix tokens, L packed tokens, H hidden size, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image
import torch

from reward_plugin.checkpoint import Checkpoint, token_ids
from reward_plugin.decoder import decoder_layer, hidden_at, rotation_of, split_attention
from reward_plugin.devices import check_backend
from reward_plugin.errors import BadImage, ConfigError
from reward_plugin.images import MAX_PIXELS, Exif, to_rgb
from reward_plugin.prepare import Resize, ahead, picture, to_input
from reward_plugin.prompting import LETTER_TOKENS, conversation, log_prompt
from reward_plugin.types import ImageLike

#: What logits, softmax and expectation are computed in; "published" is the model's dtype.
Precision = Literal["float32", "published"]

#: Images in one pass on a CPU, where larger batches fall out of the caches.
CPU_BATCH = 4
#: Threads that decode and resize for a GPU.
PREPARERS = 4


@dataclass(frozen=True)
class Packed:
    """K tokenised prompts as one sequence.

    Attributes:
        input_ids: int64 [L].
        position_ids: int64 [L]; each suffix counts on from the prefix.
        visible: bool [L, L]; row i marks the tokens that token i sees.
        ends: K indices of the prompts' last tokens.
        prefix: P, how many tokens the prompts share.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    visible: torch.Tensor
    ends: tuple[int, ...]
    prefix: int


def pack(prompts: Sequence[Sequence[int]]) -> Packed:
    """Join prompts over their longest common prefix; each keeps at least its last token to itself."""
    prefix = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False)))
    prefix = min(prefix, *(len(prompt) - 1 for prompt in prompts))
    ids, positions, owner = list(prompts[0][:prefix]), list(range(prefix)), [-1] * prefix
    ends = []
    for k, prompt in enumerate(prompts):
        ids += prompt[prefix:]
        positions += range(prefix, len(prompt))
        owner += [k] * (len(prompt) - prefix)
        ends.append(len(ids) - 1)
    of = torch.tensor(owner)
    causal = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    visible = causal & ((of[None, :] == -1) | (of[None, :] == of[:, None]))
    return Packed(torch.tensor(ids), torch.tensor(positions), visible, tuple(ends), prefix)


def pixel_values(images: Sequence[PIL.Image.Image], size: int) -> torch.Tensor:
    """RGB images to float32 [B, 3, S, S]: PIL bicubic, no crop, ImageNet mean and deviation."""
    return to_input([picture(image, size) for image in images], size)


class RatingEngine:
    """Answers the same K rating questions about every image."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        questions: Mapping[str, str],
        *,
        system_message: str | None = None,
        batch_size: int = 16,
        precision: str = "float32",
        resize: str = "pil",
        compile: bool | str = False,
    ) -> None:
        """Tokenise and pack the questions once.

        Args:
            checkpoint: model and tokenizer.
            questions: dimension -> question.
            system_message: replaces the checkpoint's own (see `Checkpoint.system_message`) where given.
            batch_size: images per forward pass, on a CPU `CPU_BATCH` at most.
            precision: "float32", or "published": logits, softmax and expectation in the model's dtype, as
                `unipercept-reward` computes them on its pinned transformers 4.49. With a bfloat16 model that
                rounds scores to steps of 0.25 in [32, 64) and 0.5 in [64, 128), so it makes ties; with a
                float32 model the two are the same.
            resize: "pil", exact, or "torch", on the model's device (see `prepare.py`).
            compile: True compiles the layers of vision tower and decoder, which takes a minute or more at the
                first batch and again at the first of another size, and a C++ compiler; text names
                torch.compile's backend.

        Raises:
            ConfigError: an option is unknown, or cannot be had here.
            CheckpointError: the vocabulary lacks a letter token.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: it must be at least 1")
        for name, value, known in (("precision", precision, Precision), ("resize", resize, Resize)):
            if value not in get_args(known):
                raise ConfigError(f"{name} {value!r}: write {' or '.join(get_args(known))}")
        self.precision, self.resize = precision, resize
        self.model = checkpoint.model
        self.image_size = checkpoint.image_size
        self.dimensions = tuple(questions)
        self.batch_size = batch_size if self.model.device.type != "cpu" else min(batch_size, CPU_BATCH)
        system = checkpoint.system_message if system_message is None else system_message
        texts = [conversation(text, checkpoint.num_image_tokens, system) for text in questions.values()]
        log_prompt(texts[0])
        device = self.model.device
        packed = pack([checkpoint.tokenizer(text).input_ids for text in texts])
        self._ids = packed.input_ids.to(device)
        self._image_at = (self._ids == self.model.config.image_token_id).nonzero()[:, 0]
        decoder = self.model.model.language_model
        self._split = split_attention(decoder, packed.prefix, packed.ends, packed.visible[list(packed.ends)])
        self._rotation = rotation_of(decoder, packed.position_ids.to(device))
        letters = token_ids(
            checkpoint.tokenizer, LETTER_TOKENS, "ratings are read from the 101 tokens aa to ey"
        )
        self._letters = torch.tensor(letters, device=device)
        self._scale = torch.arange(len(LETTER_TOKENS), dtype=torch.float32, device=device)

        self._run: Callable[..., torch.Tensor] = decoder_layer
        if compile:
            self._compile("inductor" if compile is True else compile)

    def _compile(self, backend: str) -> None:
        check_backend(backend, self.model.device)
        self._run = torch.compile(decoder_layer, backend=backend)
        for layer in self.model.model.vision_tower.encoder.layer:
            layer.compile(backend=backend)

    def letter_logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of the 101 answers to each question: [B, 3, S, S] -> float32 [B, K, 101]. Differentiable.

        With precision "published" their values are those of the model's dtype.
        """
        core = self.model.model
        features = core.get_image_features(pixels.to(self.model.device, self.model.dtype), return_dict=True)
        text = core.language_model.embed_tokens(self._ids)
        sequence = text.expand(len(pixels), -1, -1).clone()
        sequence[:, self._image_at] = features.pooler_output.to(sequence.dtype)
        answers = hidden_at(core.language_model, sequence, self._rotation, self._split, self._run)
        rows = self.model.lm_head.weight[self._letters]
        if self.precision == "published":
            return (answers @ rows.T).float()
        return answers.float() @ rows.float().T

    def expectation(self, logits: torch.Tensor) -> torch.Tensor:
        """Letter logits [..., 101] to scores [...] in 0 to 100."""
        dtype = self.model.dtype if self.precision == "published" else torch.float32
        return (logits.to(dtype).softmax(-1) @ self._scale.to(dtype)).float()

    def rate(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Score RGB images: float32 [B, K], 0 to 100."""
        return self._rate(images, lambda image: picture(image, self.image_size, self.resize))[0]

    def rate_each(
        self, images: Sequence[ImageLike], max_pixels: int = MAX_PIXELS, exif: Exif = "ignore"
    ) -> tuple[np.ndarray, list[str | None]]:
        """Score images of any accepted form, files too, decoding them while the model works on earlier ones.

        Args:
            images: see `ImageLike`.
            max_pixels: largest width x height.
            exif: `apply` turns a picture as its orientation tag says.

        Returns:
            float32 scores of the good ones, in order, and one entry per item: None, or why it is not among
            them; what `ScoreTable.computed(...).scatter(...)` takes.
        """

        def work(image: ImageLike) -> np.ndarray | BadImage:
            try:
                return picture(to_rgb(image, max_pixels, exif), self.image_size, self.resize)
            except BadImage as error:
                return error

        return self._rate(images, work)

    @torch.inference_mode()
    def _rate(
        self, images: Sequence[Any], work: Callable[[Any], np.ndarray | BadImage]
    ) -> tuple[np.ndarray, list[str | None]]:
        device = self.model.device
        threads = 0 if device.type == "cpu" else PREPARERS
        rows, errors, batch = [], [], []
        for done in ahead(work, images, threads=threads, waiting=2 * self.batch_size):
            errors.append(str(done) if isinstance(done, BadImage) else None)
            if not isinstance(done, BadImage):
                batch.append(done)
            if len(batch) == self.batch_size:
                rows.append(self._scores(batch))
                batch = []
        if batch:
            rows.append(self._scores(batch))
        empty = torch.empty(0, len(self.dimensions))
        return torch.cat([empty, *(row.cpu() for row in rows)]).numpy(), errors

    def _scores(self, batch: list[np.ndarray]) -> torch.Tensor:
        return self.expectation(self.letter_logits(to_input(batch, self.image_size, self.model.device)))
