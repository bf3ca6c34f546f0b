"""Weights under open_clip's names, given those of transformers' `CLIPModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reward_plugin.errors import CheckpointError

if TYPE_CHECKING:
    import torch

#: open_clip's name -> transformers' name; the text tower has no prefix in open_clip.
_RULES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
        (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
        (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
        (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
        (r"^visual\.proj$", "visual_projection.weight"),
        (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
        (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
        (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
        (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
        (r"^ln_final\.", "text_model.final_layer_norm."),
        (r"^text_projection$", "text_projection.weight"),
        (r"(\.layers\.\d+)\.ln_([12])\.", r"\1.layer_norm\2."),
        (r"(\.layers\.\d+)\.attn\.", r"\1.self_attn."),
        (r"(\.layers\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
        (r"(\.layers\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
    )
)


def native_weights(published: Mapping[str, torch.Tensor], origin: object) -> dict[str, torch.Tensor]:
    """open_clip's names to those of `CLIPModel`; projections transposed, fused q, k, v split in thirds of
    rows.

    Raises:
        CheckpointError: a weight that is not part of an open_clip CLIP.
    """
    native: dict[str, torch.Tensor] = {}
    for old, tensor in published.items():
        if old == "attn_mask":
            continue  # a constant that older versions of open_clip save
        name = old
        for pattern, replacement in _RULES:
            name = pattern.sub(replacement, name)
        if name == old and old != "logit_scale":
            raise CheckpointError(
                f"{origin}: weight {old} is not part of open_clip's CLIP; is this another model?"
            )
        if old in ("text_projection", "visual.proj"):
            native[name] = tensor.T.contiguous()
        elif ".in_proj_" in name:
            kind = name.rpartition("_")[2]  # weight or bias
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                native[name.replace(f"in_proj_{kind}", f"{letter}_proj.{kind}")] = third
        else:
            native[name] = tensor
    return native
