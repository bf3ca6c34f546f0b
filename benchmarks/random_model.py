"""A rating model of InternVL3-8B's shape with random weights, and prompts of its lengths, from nothing.

No checkpoint, tokenizer or network: speed does not depend on the values. UniPercept is InternVL3-8B:
InternViT (24 layers, 1024 wide, patch 14) and Qwen2.5-7B; with Qwen2's vocabulary its three questions are
501, 501 and 504 tokens, of which they share 300, 256 of them the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

from reward_plugin.checkpoint import Checkpoint
from reward_plugin.devices import check_attention
from reward_plugin.prompting import LETTER_TOKENS, UNIPERCEPT_QUESTIONS

#: Tokens before the image, between the image and where the questions differ, and of each question from there.
BEFORE, BETWEEN, OWN = 40, 4, (201, 201, 204)


@dataclass(frozen=True)
class Sizes:
    """What the speed depends on; the defaults are InternVL3-8B."""

    image: int = 448
    patch: int = 14
    vision: tuple[int, int, int, int] = (1024, 24, 16, 4096)  # width, layers, heads, feed-forward
    text: tuple[int, int, int, int] = (3584, 28, 28, 18944)
    key_value_heads: int = 4
    vocabulary: int = 151674

    @property
    def image_tokens(self) -> int:
        """Tokens that stand for one image."""
        return (self.image // self.patch) ** 2 // 4


INTERNVL3_8B = Sizes()
TINY = Sizes(image=56, vision=(32, 2, 2, 64), text=(48, 3, 6, 96), key_value_heads=2, vocabulary=512)


class LengthsOnly:
    """A tokenizer of which only the lengths are right, and what the questions share."""

    def __init__(self, sizes: Sizes) -> None:
        """Take the last id for the image's tokens."""
        self.sizes = sizes
        self.name_or_path = "lengths only"
        self.unk_token_id = None

    def __call__(self, text: str) -> SimpleNamespace:
        """Ids of one of the three conversations."""
        questions = [question.removeprefix("<image>") for question in UNIPERCEPT_QUESTIONS.values()]
        k = next(k for k, question in enumerate(questions) if question in text)
        image = [self.sizes.vocabulary - 1] * self.sizes.image_tokens
        return SimpleNamespace(input_ids=[1] * BEFORE + image + [2] * BETWEEN + [3 + k] * OWN[k])

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        """Some ids for the letters."""
        return list(range(100, 100 + len(tokens)))


def config_of(sizes: Sizes) -> InternVLConfig:
    """The native config."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision = InternVLVisionConfig(
        **dict(zip(names, sizes.vision, strict=True)),
        image_size=sizes.image,
        patch_size=sizes.patch,
        attention_bias=True,
        use_qk_norm=False,
        use_mean_pooling=True,
    )
    text = Qwen2Config(
        **dict(zip(names, sizes.text, strict=True)),
        num_key_value_heads=sizes.key_value_heads,
        vocab_size=sizes.vocabulary,
        tie_word_embeddings=False,
    )
    return InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=sizes.vocabulary - 1, tie_word_embeddings=False
    )


def random_checkpoint(sizes: Sizes, device: torch.device, dtype: torch.dtype, attention: str) -> Checkpoint:
    """Shapes on the meta device, memory and values on `device`; seeded."""
    check_attention(attention, device, dtype)
    config = config_of(sizes)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and "bias" not in name:
                weight.fill_(1)
            else:
                weight.normal_(0, 0.02, generator=generator)
    rotary = model.model.language_model.rotary_emb  # its frequencies are no parameters: compute them anew
    model.model.language_model.rotary_emb = type(rotary)(config.text_config).to(device)
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        tokenizer=LengthsOnly(sizes),
        image_size=sizes.image,
        num_image_tokens=sizes.image_tokens,
        system_message="",
    )


def operations(sizes: Sizes) -> float:
    """Floating-point operations for one image the way we compute it: two for a multiply and add."""
    patches = (sizes.image // sizes.patch) ** 2
    width, layers, _, inner = sizes.vision
    vision = layers * ((patches + 1) * (4 * width**2 + 2 * width * inner) + 2 * (patches + 1) ** 2 * width)
    vision += patches * 3 * sizes.patch**2 * width
    hidden, depth, heads, inner = sizes.text
    keys = hidden // heads * sizes.key_value_heads
    prefix, count = BEFORE + sizes.image_tokens + BETWEEN, len(OWN)
    tokens = prefix + sum(OWN)
    projector = sizes.image_tokens * (4 * width * hidden + hidden**2)
    layer = tokens * (2 * hidden**2 + 2 * hidden * keys + 3 * hidden * inner)
    pairs = prefix**2 / 2 + sum(own * prefix + own**2 / 2 for own in OWN)  # of tokens that see each other
    attention = 2 * hidden * pairs
    last = tokens * 2 * hidden * keys + count * (2 * hidden**2 + 3 * hidden * inner + 2 * hidden * tokens)
    head = count * len(LETTER_TOKENS) * hidden
    return 2.0 * (vision + projector + (depth - 1) * (layer + attention) + last + head)
