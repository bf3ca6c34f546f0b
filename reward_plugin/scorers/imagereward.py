"""ImageReward: human preference for a picture of a prompt, roughly standard normal.

Xu et al., "ImageReward", arXiv 2304.05977; weights `THUDM/ImageReward` (ImageReward.pt). BLIP's text encoder
reads the prompt with cross-attention to the image (ViT-L/16 at 224), five linear layers turn its first token
into a number, and score = (number - 0.16717) / 1.03334: mean 0 and deviation 1 over the published
training pictures, hardly ever outside -2.5 to 2.5. Preprocessing as published: shorter side to 224 by PIL's
bicubic, centre crop; prompts are padded to, and cut at, 35 tokens of bert-base-uncased.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_plugin.errors import CheckpointError
from reward_plugin.scorers.batches import check_batch_size, score_pairs
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from torch import nn

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
MAX_TOKENS = 35
STEMS = ("ImageReward",)
#: Width of an attention head, of ViT-L and of BERT alike.
HEAD_WIDTH = 64
NO_PROMPT = "no prompt was given, and imagereward rates an image for one"
#: Left over from BLIP's pretraining, or constants; not part of the score.
_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|.*\.position_ids$")
#: Published name -> part of the scorer and transformers' name there.
_VISION_RULES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


class ImageRewardScorer:
    """Scores images against their prompts with BLIP and a linear head."""

    name = "imagereward"
    dimensions = ("imagereward",)
    ranges: Mapping[str, tuple[float, float]] = {"imagereward": (-3.0, 3.0)}

    def __init__(self, vision: Any, text: Any, head: nn.Module, tokenizer: Any, batch_size: int = 32) -> None:
        """Take the loaded parts: `BlipVisionModel`, `BlipTextModel`, head, BERT tokenizer."""
        self.vision, self.text, self.head, self.tokenizer = vision, text, head, tokenizer
        self.batch_size = check_batch_size(batch_size)

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image for its prompt; one without a prompt is missing."""
        return score_pairs(images, prompts, self.dimensions, self.batch_size, self._rate, NO_PROMPT)

    def _rate(self, images: Sequence[PIL.Image.Image], texts: Sequence[str]) -> np.ndarray:
        import torch

        from reward_plugin.scorers.pixel_values import centre_square, normalise, to_tensor

        device, size = self.vision.device, self.vision.config.image_size
        pixels = normalise(to_tensor([centre_square(image, size) for image in images]))
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            seen = self.vision(pixels.to(device, self.vision.dtype)).last_hidden_state
            read = self.text(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
            ).last_hidden_state
            return ((self.head(read[:, 0].float()) - MEAN) / DEVIATION).cpu().numpy()


def split_weights(
    published: Mapping[str, torch.Tensor], origin: object
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The published names as those of `BlipVisionModel`, of `BlipTextModel`, and of the head.

    Raises:
        CheckpointError: a weight that is not part of ImageReward.
    """
    vision: dict[str, torch.Tensor] = {}
    text: dict[str, torch.Tensor] = {}
    head: dict[str, torch.Tensor] = {}
    for name, tensor in published.items():
        if name.startswith("blip.visual_encoder."):
            new = name.removeprefix("blip.visual_encoder.")
            for pattern, replacement in _VISION_RULES:
                new = re.sub(pattern, replacement, new)
            vision[new] = tensor
        elif _UNUSED.match(name):
            continue
        elif name.startswith("blip.text_encoder."):
            text[name.removeprefix("blip.text_encoder.")] = tensor
        elif name.startswith("mlp."):
            head[name.removeprefix("mlp.")] = tensor
        else:
            raise CheckpointError(
                f"{origin}: weight {name} is not part of ImageReward; is this another model?"
            )
    for part, weights in (("blip.visual_encoder", vision), ("blip.text_encoder", text), ("mlp", head)):
        if not weights:
            raise CheckpointError(f"{origin}: holds no weight {part}.*; is this ImageReward.pt?")
    return vision, text, head


def build(
    path: str = "THUDM/ImageReward",
    tokenizer: str = "google-bert/bert-base-uncased",
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 32,
    revision: str | None = None,
) -> ImageRewardScorer:
    """Load ImageReward.

    Args:
        path: weight file, or folder or hub id that holds ImageReward.safetensors or .pt.
        tokenizer: folder or hub id of bert-base-uncased, for its tokenizer alone.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16. The head is float32.
        batch_size: pairs per forward pass.
        revision: branch, tag or commit of a hub id given as `path`.
    """
    from reward_plugin.devices import resolve
    from reward_plugin.scorers.blip import load_blip, load_tokenizer
    from reward_plugin.scorers.weights import find_file, linear_stack, read_weights
    from reward_plugin.source import find_folder

    where, precision = resolve(device, dtype)
    words = load_tokenizer(find_folder(tokenizer, None, ("*.json", "*.txt")))
    file = find_file(path, STEMS, revision)
    vision, text, layers = split_weights(read_weights(file), file)
    seeing, reading = load_blip(vision, text, precision, file)
    head = linear_stack(layers, reading.config.hidden_size, file)
    return ImageRewardScorer(seeing.to(where), reading.to(where), head.to(where), words, batch_size)
