"""ImageReward's two towers, their sizes read off the published weights, and its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from reward_plugin.errors import CheckpointError
from reward_plugin.scorers.imagereward import HEAD_WIDTH, MAX_TOKENS
from reward_plugin.scorers.weights import into_model


def load_blip(
    vision: Mapping[str, torch.Tensor], text: Mapping[str, torch.Tensor], dtype: torch.dtype, origin: Path
) -> tuple[BlipVisionModel, BlipTextModel]:
    """Both towers, strictly: a missing weight is an error.

    The published layer norms have an epsilon of 1e-6 in the image tower and 1e-12 in the text tower, and its
    text tower has no pooling layer.

    Raises:
        CheckpointError: a weight is missing, left over, or of another shape.
    """
    try:
        width, _, patch, _ = vision["embeddings.patch_embedding.weight"].shape
        side = math.isqrt(vision["embeddings.position_embedding"].shape[1] - 1) * patch
        words, hidden = text["embeddings.word_embeddings.weight"].shape
        vision_config = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=len(vision["encoder.layers.0.mlp.fc1.bias"]),
            num_hidden_layers=_layers(vision, "encoder.layers."),
            num_attention_heads=width // HEAD_WIDTH,
            image_size=side,
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
        text_config = BlipTextConfig(
            vocab_size=words,
            hidden_size=hidden,
            encoder_hidden_size=width,
            intermediate_size=len(text["encoder.layer.0.intermediate.dense.bias"]),
            num_hidden_layers=_layers(text, "encoder.layer."),
            num_attention_heads=hidden // HEAD_WIDTH,
            max_position_embeddings=len(text["embeddings.position_embeddings.weight"]),
            layer_norm_eps=1e-12,
            is_decoder=True,  # which is how transformers calls having cross-attention
        )
    except KeyError as error:
        raise CheckpointError(f"{origin}: weight {error} is missing; download ImageReward.pt again") from None
    return (
        into_model(BlipVisionModel, vision_config, vision, dtype, origin),
        into_model(BlipTextModel, text_config, text, dtype, origin, add_pooling_layer=False),
    )


def load_tokenizer(folder: Path) -> Any:
    """BERT's lower-casing tokenizer.

    Raises:
        CheckpointError: its vocabulary is not in the folder.
    """
    if not any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
        raise CheckpointError(
            f"{folder / 'vocab.txt'}: missing; option tokenizer is the folder of bert-base-uncased's "
            "tokenizer, with vocab.txt or tokenizer.json"
        )
    return BertTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=MAX_TOKENS)


def _layers(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].partition(".")[0]) for name in weights if name.startswith(prefix))
