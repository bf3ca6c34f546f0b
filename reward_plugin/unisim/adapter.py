"""An adapter folder as PEFT writes it, put into the plain names of the model that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from reward_plugin.checkpoint_files import read_json
from reward_plugin.errors import CheckpointError
from reward_plugin.unisim.layout import WRAPPED, merge

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Variants of LoRA whose merge is another formula. What they are when they are off.
VARIANTS = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "alpha_pattern": ({}, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "alora_invocation_tokens": (None,),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "target_parameters": (None, []),
}


def merge_adapter(base: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model with an adapter folder merged in.

    Args:
        base: the weights of a plain `CLIPModel` by name.
        folder: holds adapter_config.json and adapter_model.safetensors, of a LoRA on the `CLIPModel` or on
            its `vision_model`; modules saved whole, such as `visual_projection`, replace the base's.

    Raises:
        CheckpointError: a file is missing or damaged, it is another kind of adapter, or of another model.
    """
    config = read_json(folder / CONFIG, "an adapter folder has one; is this the right folder?")
    alpha = _alpha(config, folder)
    combined = dict(base)
    for name, tensor in _read(folder / WEIGHTS).items():
        plain = name.replace(WRAPPED, "")
        if not plain.startswith(("vision_model.", "text_model.", "visual_projection.", "text_projection.")):
            plain = f"vision_model.{plain}"  # the vision model itself was wrapped
        layer, lora, kind = plain.partition(".lora_")
        if not lora:
            if plain not in base or base[plain].shape != tensor.shape:
                raise _foreign(folder, name)
            combined[plain] = tensor
            continue
        if f"{layer}.weight" not in base:
            raise _foreign(folder, name)
        for part in ("weight", "bias"):
            if f"{layer}.{part}" in combined:
                combined[f"{layer}.base_layer.{part}"] = combined.pop(f"{layer}.{part}")
        combined[f"{layer}.lora_{kind.replace('.weight', '.default.weight')}"] = tensor
    return merge(combined, alpha, folder)


def _alpha(config: Mapping[str, Any], folder: Path) -> float:
    """LoRA's alpha. With rsLoRA the one that makes alpha / r its scale, alpha / sqrt(r)."""
    file = folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{file}: peft_type is {config.get('peft_type')!r}; only LORA can be merged")
    for key, off in VARIANTS.items():
        if (value := config.get(key)) not in off:
            raise CheckpointError(
                f"{file}: {key} is {value!r}; only plain LoRA can be merged here: merge it with PEFT's "
                "merge_and_unload, save the model, and give that folder"
            )
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"{file}: lora_alpha is {alpha!r} and r {rank!r}; both must be numbers")
    if not config.get("use_rslora"):
        return float(alpha)
    if config.get("rank_pattern"):
        raise CheckpointError(f"{file}: use_rslora with a rank_pattern; merge it with PEFT first")
    return float(alpha * rank**0.5)


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: missing; the adapter is read from it, and never from a pickled adapter_model.bin"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged ({error}); download it again") from error


def _foreign(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{folder}: {name} fits no weight of the base; was it trained on another model?")
