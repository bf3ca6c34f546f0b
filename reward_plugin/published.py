"""The published `InternVLChatModel` layout in native terms: config fields and weight names. Pure; no files.

The renaming is that of transformers' `convert_internvl_weights_to_hf.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

from reward_plugin.errors import CheckpointError

_KEY_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^vision_model\.embeddings\.class_embedding$", "model.vision_tower.embeddings.cls_token"),
        (
            r"^vision_model\.embeddings\.patch_embedding\.",
            "model.vision_tower.embeddings.patch_embeddings.projection.",
        ),
        (
            r"^vision_model\.embeddings\.position_embedding$",
            "model.vision_tower.embeddings.position_embeddings",
        ),
        (r"^vision_model\.encoder\.layers\.", "model.vision_tower.encoder.layer."),
        (r"^mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
        (r"^mlp1\.1\.", "model.multi_modal_projector.linear_1."),
        (r"^mlp1\.3\.", "model.multi_modal_projector.linear_2."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"(vision_tower\..*)\.attn\.proj\.", r"\1.attention.projection_layer."),
        (r"(vision_tower\..*)\.attn\.", r"\1.attention."),
        (r"(vision_tower\..*)\.norm1\.", r"\1.layernorm_before."),
        (r"(vision_tower\..*)\.norm2\.", r"\1.layernorm_after."),
        (r"(vision_tower\..*)\.ls([12])$", r"\1.lambda_\2"),
    )
)

#: native name -> (published name, the published code's default)
_VISION_FIELDS: Mapping[str, tuple[str, Any]] = {
    "num_channels": ("num_channels", 3),
    "patch_size": ("patch_size", 14),
    "image_size": ("image_size", 224),
    "attention_bias": ("qkv_bias", False),
    "hidden_size": ("hidden_size", 3200),
    "num_attention_heads": ("num_attention_heads", 25),
    "intermediate_size": ("intermediate_size", 12800),
    "use_qk_norm": ("qk_normalization", True),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_type": ("norm_type", "rms_norm"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
}

#: what of the published `llm_config` describes the network; the rest is generation defaults of its day
TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

#: settings of the published model that native InternVL knows only one value of
_REQUIRED = {"ps_version": "v2", "template": "internvl2_5", "use_backbone_lora": 0, "use_llm_lora": 0}


def native_config(raw: Mapping[str, Any], image_token_id: int, origin: str | Path) -> InternVLConfig:
    """The published config in native terms.

    Args:
        raw: the parsed config.json.
        image_token_id: id of `<IMG_CONTEXT>`.
        origin: what to call the checkpoint in an error.

    Raises:
        CheckpointError: the config asks for something that native InternVL does not do.
    """
    for key in ("llm_config", "vision_config"):
        if not isinstance(raw.get(key), Mapping):
            raise CheckpointError(
                f"{origin}: config.json has no {key}; an InternVLChatModel has one: download it again"
            )
    language = (raw["llm_config"].get("architectures") or [None])[0]
    if language != "Qwen2ForCausalLM":
        raise CheckpointError(f"{origin}: llm_config is a {language}; only Qwen2ForCausalLM is supported")
    for key, value in _REQUIRED.items():
        if raw.get(key, value) != value:
            raise CheckpointError(f"{origin}: config {key} is {raw[key]!r}; only {value!r} is supported")
    vision = {name: raw["vision_config"].get(*source) for name, source in _VISION_FIELDS.items()}
    text = {name: raw["llm_config"][name] for name in TEXT_FIELDS if name in raw["llm_config"]}
    kept = {name: raw[name] for name in ("system_message", "force_image_size") if name in raw}
    return InternVLConfig(
        vision_config=InternVLVisionConfig(**vision, use_mean_pooling=True),
        text_config=Qwen2Config(**text),
        image_token_id=image_token_id,
        downsample_ratio=raw.get("downsample_ratio", 0.5),
        vision_feature_layer=raw.get("select_layer", -1),
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        **kept,
    )


def native_weights(published: Mapping[str, torch.Tensor], origin: str | Path) -> dict[str, torch.Tensor]:
    """Published names to native ones; the fused qkv of the vision tower splits into thirds of its rows.

    Raises:
        CheckpointError: a weight that is not part of the published model.
    """
    native: dict[str, torch.Tensor] = {}
    for old, tensor in published.items():
        name = old
        for pattern, replacement in _KEY_RULES:
            name = pattern.sub(replacement, name)
        if name == old:
            raise CheckpointError(
                f"{origin}: weight {old} is not part of InternVLChatModel; is this another model?"
            )
        if ".attention.qkv." in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                native[name.replace(".qkv.", f".{letter}_proj.")] = third
        else:
            native[name] = tensor
    return native
