"""The layout in which UniSim's weights are published: read, merged into a plain `CLIPModel`, and written.

Published is what `torch.save` writes: under `state_dict` the whole model, of which the vision model carries
adapters in PEFT's names, each name behind a `module.` of distributed training:

    module.vision_model.base_model.model.encoder.layers.0.self_attn.q_proj.base_layer.weight
    module.vision_model.base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight    [r, in]
    module.vision_model.base_model.model.encoder.layers.0.self_attn.q_proj.lora_B.default.weight    [out, r]
    module.vision_model.base_model.model.pre_layrnorm.weight
    module.text_model.final_layer_norm.weight
    module.visual_projection.weight

`logit_scale` is not among them: cosines have no temperature here. Nor is LoRA's alpha, without which the
adapters cannot be merged (W + alpha / r * B A): the published models have 32 at rank 16. Files written here
carry it beside `state_dict`, where the published code does not look.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.scorers.weights import read_with_settings

if TYPE_CHECKING:
    from transformers import CLIPModel

RANK, ALPHA = 16, 32
#: The linear layers of the vision model that have an adapter.
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
#: What PEFT puts between a wrapped module's name and those of its parts.
WRAPPED = "base_model.model."
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def read_published(file: Path) -> tuple[dict[str, torch.Tensor], float | None]:
    """The tensors of a published file, without `module.`, and the alpha of its adapters where it says so.

    Torch files are read with `weights_only=True`, which runs no code of the file; safetensors as they are.

    Raises:
        CheckpointError: missing, damaged, or not a file of tensors; or its alpha is not a number.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; give the published weight file")
    weights, settings = read_with_settings(file)
    try:
        return weights, float(settings["lora_alpha"]) if "lora_alpha" in settings else None
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{file}: lora_alpha is {settings['lora_alpha']!r}, which is not a number"
        ) from None


def merge(
    weights: Mapping[str, torch.Tensor], alpha: float | None = None, origin: object = "weights"
) -> dict[str, torch.Tensor]:
    """Names and weights of the plain model: every adapter added to the layer that it belongs to.

    W + alpha / r * B A, computed in float32 and returned in W's number format. Weights without adapters come
    back as they are.

    Args:
        weights: as `read_published` returns them.
        alpha: LoRA's alpha; None: 32, if the rank is 16, as published.
        origin: what to call the weights in errors.

    Raises:
        CheckpointError: half of an adapter or its layer is missing, or their shapes do not fit.
        ConfigError: alpha is None and the rank is not 16.
    """
    plain = {name.replace(WRAPPED, ""): tensor for name, tensor in weights.items()}
    layers = {
        name.removesuffix(end)
        for name in plain
        for end in (_DOWN, _UP, ".base_layer.weight")
        if name.endswith(end)
    }
    for layer in sorted(layers):
        parts = [f"{layer}{end}" for end in (".base_layer.weight", _DOWN, _UP)]
        if missing := [name for name in parts if name not in plain]:
            raise CheckpointError(f"{origin}: {missing[0]} is missing, the others of {layer} are there")
        base, down, up = (plain.pop(name) for name in parts)
        rank = down.shape[0]
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != rank or base.shape != (len(up), down.shape[1]):
            raise CheckpointError(
                f"{origin}: the adapter of {layer} has shapes {tuple(up.shape)} and {tuple(down.shape)}, "
                f"which do not multiply to its layer's {tuple(base.shape)}"
            )
        scale = _alpha(alpha, rank, origin) / rank
        plain[f"{layer}.weight"] = (base.float() + scale * (up.float() @ down.float())).to(base.dtype)
        if (bias := plain.pop(f"{layer}.base_layer.bias", None)) is not None:
            plain[f"{layer}.bias"] = bias
    return plain


def apply(base: CLIPModel, weights: Mapping[str, torch.Tensor], origin: object) -> CLIPModel:
    """Give a `CLIPModel` other weights, in place: all of them, strictly.

    Args:
        base: the model whose weights are replaced; its number format and device stay.
        weights: plain names, as `merge` returns them. `logit_scale` may be missing, and the constant
            `position_ids` of older versions of transformers may be there.
        origin: what to call the weights in errors.

    Raises:
        CheckpointError: a weight is missing, left over or of another shape; then nothing is changed.
    """
    given = {name: tensor for name, tensor in weights.items() if not name.endswith(".position_ids")}
    shapes = {name: tensor.shape for name, tensor in base.state_dict().items()}
    remedy = "are they of this model, and is the base the one that was tuned?"
    _none(shapes.keys() - given.keys() - {"logit_scale"}, "missing", origin, remedy)
    _none(given.keys() - shapes.keys(), "not part of a CLIPModel", origin, remedy)
    wrong = {
        f"{name} {tuple(tensor.shape)} instead of {tuple(shapes[name])}"
        for name, tensor in given.items()
        if tensor.shape != shapes[name]
    }
    _none(wrong, "of another shape", origin, remedy)
    base.load_state_dict(given, strict=False)
    return base


def apply_file(base: CLIPModel, file: Path, alpha: float | None = None) -> CLIPModel:
    """Give a `CLIPModel` the weights of a published file, adapters merged; see `merge` and `apply`.

    Args:
        alpha: LoRA's alpha; None: the one that the file names, or the published one.
    """
    weights, written = read_published(file)
    return apply(base, merge(weights, written if alpha is None else alpha, file), file)


def published_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a model in training, under the published names.

    Args:
        model: a `CLIPModel` whose `vision_model` PEFT has wrapped, as the published code does it; or a
            `CLIPModel` that PEFT has wrapped as a whole, with adapters on the vision model alone.

    Raises:
        ConfigError: adapters elsewhere, or of another kind: there are no published names for them.
    """
    published = {}
    for name, tensor in model.state_dict().items():
        plain = name.replace(WRAPPED, "").replace(".modules_to_save.default.", ".")
        if plain == "logit_scale" or ".original_module." in plain or plain.endswith(".position_ids"):
            continue
        vision = plain.startswith("vision_model.")
        adapter = ".lora_" in plain
        if (adapter and not plain.endswith((_DOWN, _UP))) or (
            not vision and (adapter or ".base_layer." in plain)
        ):
            raise ConfigError(
                f"{name}: UniSim's layout has one adapter, default, made of lora_A and lora_B, on layers of "
                "the vision model alone; save others with save_pretrained"
            )
        inner = plain.removeprefix("vision_model.")
        published[f"module.vision_model.{WRAPPED}{inner}" if vision else f"module.{plain}"] = tensor
    return published


def write_published(file: Path, model: Any, alpha: float, **more: Any) -> None:
    """Write a model in training as it would be published; the file is there whole or not at all.

    Args:
        file: where to; `.pt`.
        model: see `published_weights`.
        alpha: LoRA's alpha, kept in the file. The published code always takes 32, and rank 16.
        more: what else to keep beside `state_dict`, such as `epoch`: numbers, texts and tensors.

    Raises:
        ConfigError: see `published_weights`.
        OSError: it cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in published_weights(model).items()}
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as stream:
            torch.save({**more, "lora_alpha": float(alpha), "state_dict": weights}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _alpha(alpha: float | None, rank: int, origin: object) -> float:
    if alpha is not None:
        return alpha
    if rank == RANK:
        return ALPHA
    raise ConfigError(
        f"{origin}: adapters of rank {rank}, and no alpha: {ALPHA} is published for rank {RANK} alone; give "
        "the alpha that they were trained with"
    )


def _none(names: Iterable[str], problem: str, origin: object, remedy: str) -> None:
    if found := sorted(names):
        raise CheckpointError(f"{origin}: {len(found)} weights {problem}, first {found[0]}; {remedy}")
