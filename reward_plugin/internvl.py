"""Rate images with one InternVL model: each image seen once, all questions answered in one pass.

The published code asks each question in a forward pass of its own, vision tower included. The questions share
the system turn, the image and the first words (300 of about 500 tokens), so here a batch is scored as one
sequence

    [ shared prefix | rest of question 1 | rest of question 2 | ... ]

in which the rests see the prefix and themselves, but not each other, and count their positions from the end
of the prefix. Every token then computes what it computes in a pass of its own. The language head runs only
where the answers are read, over the 101 letter tokens; the softmax and its expectation are float32 whatever
the model's dtype, unless the published rounding is asked for.

Shapes: B images, K questions, P prefix tokens, L packed tokens, H hidden size, S image side.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, get_args

import numpy as np
import PIL.Image
import torch

from reward_plugin.checkpoint import Checkpoint, token_ids
from reward_plugin.decoder import hidden_at
from reward_plugin.errors import ConfigError
from reward_plugin.prompting import IMAGE_CONTEXT, LETTER_TOKENS, conversation

log = logging.getLogger(__name__)

#: What logits, softmax and expectation are computed in; "published" is the model's dtype.
Precision = Literal["float32", "published"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Packed:
    """K tokenised prompts as one sequence.

    Attributes:
        input_ids: int64 [L].
        position_ids: int64 [L]; each suffix counts on from the prefix.
        visible: bool [L, L]; row i marks the tokens that token i sees.
        ends: K indices of the prompts' last tokens.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    visible: torch.Tensor
    ends: tuple[int, ...]


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
    return Packed(torch.tensor(ids), torch.tensor(positions), visible, tuple(ends))


def pixel_values(images: Sequence[PIL.Image.Image], size: int) -> torch.Tensor:
    """RGB images to float32 [B, 3, S, S]: PIL bicubic no crop, ImageNet mean and deviation."""
    resized = [image.resize((size, size), PIL.Image.Resampling.BICUBIC) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels.float() / 255 - mean) / std


class RatingEngine:
    """Answers the same K rating questions about every image."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        questions: Mapping[str, str],
        *,
        system_message: str | None = None,
        batch_size: int = 16,
        precision: Precision = "float32",
    ) -> None:
        """Tokenise and pack the questions once.

        Args:
            checkpoint: model and tokenizer.
            questions: dimension -> question.
            system_message: replaces the checkpoint's own (see `Checkpoint.system_message`) where given.
            batch_size: images per forward pass.
            precision: "float32", or "published": logits, softmax and expectation in the model's dtype, as
                `unipercept-reward` computes them on its pinned transformers 4.49. With a bfloat16 model that
                rounds scores to steps of 0.25 in [32, 64) and 0.5 in [64, 128), so it makes ties; with a
                float32 model the two are the same.
        """
        if precision not in get_args(Precision):
            raise ConfigError(f"precision {precision!r}: write {' or '.join(get_args(Precision))}")
        self.precision = precision
        self.model = checkpoint.model
        self.image_size = checkpoint.image_size
        self.dimensions = tuple(questions)
        self.batch_size = batch_size
        system = checkpoint.system_message if system_message is None else system_message
        texts = [conversation(text, checkpoint.num_image_tokens, system) for text in questions.values()]
        image_tokens = IMAGE_CONTEXT * checkpoint.num_image_tokens
        log.info(
            "prompt: %r", texts[0].replace(image_tokens, f"{IMAGE_CONTEXT}*{checkpoint.num_image_tokens}")
        )

        device = self.model.device
        packed = pack([checkpoint.tokenizer(text).input_ids for text in texts])
        self._ids = packed.input_ids.to(device)
        self._positions = packed.position_ids.to(device)[None]
        self._ends = torch.tensor(packed.ends, device=device)
        self._image_at = (packed.input_ids == self.model.config.image_token_id).to(device).nonzero()[:, 0]
        hidden = torch.zeros(packed.visible.shape, dtype=self.model.dtype)
        self._mask = hidden.masked_fill(~packed.visible, torch.finfo(self.model.dtype).min)[None, None].to(
            device
        )
        self._letters = torch.tensor(token_ids(checkpoint.tokenizer, LETTER_TOKENS), device=device)
        self._scale = torch.arange(len(LETTER_TOKENS), dtype=torch.float32, device=device)

    def letter_logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of the 101 answers to each question: [B, 3, S, S] -> float32 [B, K, 101]. Differentiable.

        With precision "published" their values are those of the model's dtype.
        """
        core = self.model.model
        features = core.get_image_features(pixels.to(self.model.device, self.model.dtype), return_dict=True)
        text = core.language_model.embed_tokens(self._ids)
        sequence = text.expand(len(pixels), -1, -1).clone()
        sequence[:, self._image_at] = features.pooler_output.to(sequence.dtype)
        answers = hidden_at(core.language_model, sequence, self._mask, self._positions, self._ends)
        rows = self.model.lm_head.weight[self._letters]
        if self.precision == "published":
            return (answers @ rows.T).float()
        return answers.float() @ rows.float().T

    def expectation(self, logits: torch.Tensor) -> torch.Tensor:
        """Letter logits [..., 101] to scores [...] in 0 to 100."""
        dtype = self.model.dtype if self.precision == "published" else torch.float32
        return (logits.to(dtype).softmax(-1) @ self._scale.to(dtype)).float()

    @torch.inference_mode()
    def rate(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Score RGB images: float32 [B, K], 0 to 100."""
        scores = np.empty((len(images), len(self.dimensions)), dtype=np.float32)
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            logits = self.letter_logits(pixel_values(chunk, self.image_size))
            scores[start : start + len(chunk)] = self.expectation(logits).cpu().numpy()
        return scores
