"""LoRA files: diffusers' and peft's formats, read into one form and written from it.

Shapes:  r rank; A [r, in] and B [out, r] of a layer, whose weight [out, in] changes by B @ A.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flow_grpo.files import replacing, write_tensors

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
COMPONENT = "transformer"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """What an adapter adds to a model.

    Attributes:
        layers: Path of a layer in the transformer -> (A, B), float32. Every scale is multiplied into B.
        kind: Format of the file, diffusers or peft.
        alpha: What the file says about scale; for reading only, it is in B already.
    """

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    kind: str = "diffusers"
    alpha: str = "none: that is, the rank"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, smallest first."""
        return tuple(sorted({len(a) for a, _ in self.layers.values()}))


def find_adapter(path: str | Path) -> Path:
    """The file of an adapter, given it or its folder.

    Raises:
        ValueError: There is none.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    for name in (LORA_FILE, PEFT_FILE):
        if (path / name).is_file():
            return path / name
    raise ValueError(
        f"{path} holds no adapter; give a folder with {LORA_FILE} or {PEFT_FILE}, or such a file."
    )


def read_adapter(path: str | Path) -> Adapter:
    """Read a LoRA of a transformer, in diffusers' or peft's format.

    Raises:
        ValueError: There is none, or it holds something that is no plain LoRA of a transformer.
    """
    from safetensors import SafetensorError, safe_open

    file = find_adapter(path)
    try:
        with safe_open(str(file), "pt") as stream:
            tensors = {key: stream.get_tensor(key).float() for key in stream.keys()}  # noqa: SIM118
            metadata = stream.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if any(key.startswith(PEFT_PREFIX) for key in tensors):
        return _read_peft(file, tensors)
    return _read_diffusers(file, tensors, metadata)


def _read_diffusers(file: Path, tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> Adapter:
    settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    own = {k.removeprefix(f"{COMPONENT}."): v for k, v in settings.items() if k.startswith(f"{COMPONENT}.")}
    alphas = {key: float(tensors.pop(key)) for key in list(tensors) if key.endswith(".alpha")}
    layers = _pairs(file, tensors, f"{COMPONENT}.")
    scaled = {}
    for name, (a, b) in layers.items():
        alpha = alphas.get(f"{COMPONENT}.{name}.alpha")
        scaled[name] = (a, b * (_scale(own, name, len(a)) if alpha is None else alpha / len(a)))
    said = sorted(set(alphas.values())) or ([own["lora_alpha"]] if "lora_alpha" in own else [])
    return Adapter(scaled, "diffusers", ", ".join(f"{v:g}" for v in said) or Adapter.alpha)


def _read_peft(file: Path, tensors: dict[str, torch.Tensor]) -> Adapter:
    config = file.with_name(PEFT_CONFIG)
    if not config.is_file():
        raise ValueError(
            f"{file} is in peft's format, but {PEFT_CONFIG}, which has its scale, is not beside it."
        )
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.get("peft_type") != "LORA" or settings.get("use_dora"):
        raise ValueError(f"{config}: only a plain LORA is read, not {settings.get('peft_type')} or DoRA.")
    layers = _pairs(file, tensors, PEFT_PREFIX)
    scaled = {name: (a, b * _scale(settings, name, len(a))) for name, (a, b) in layers.items()}
    return Adapter(scaled, "peft", f"{settings['lora_alpha']:g}")


def _scale(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / r as peft computes it, 1 where nothing is said."""
    if "lora_alpha" not in settings:
        return 1.0
    alpha = settings["lora_alpha"]
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if layer == pattern or layer.endswith(f".{pattern}"):
            alpha = value
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _pairs(file: Path, tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, tuple[Any, Any]]:
    """Layer -> (A, B); anything that is no part of such a pair is an error."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        layer, _, half = key.removesuffix(".weight").rpartition(".lora_")
        if not key.startswith(prefix) or half not in ("A", "B") or value.ndim != 2:
            raise ValueError(
                f"{file}: {key} is not {prefix}<layer>.lora_A.weight or lora_B.weight. Only plain LoRA of "
                f"the {COMPONENT} is read; load the file with diffusers' load_lora_weights and save it with "
                f"save_lora_weights, or leave out what does not belong to the {COMPONENT}."
            )
        found.setdefault(layer.removeprefix(prefix), {})[half] = value
    for layer, halves in found.items():
        if len(halves) != 2 or len(halves["A"]) != halves["B"].shape[1]:
            raise ValueError(f"{file}: lora_A and lora_B of {layer} do not fit each other.")
    if not found:
        raise ValueError(f"{file} holds no lora_A and lora_B.")
    return {layer: (halves["A"], halves["B"]) for layer, halves in sorted(found.items())}


def write_diffusers(folder: Path, adapter: Adapter) -> Path:
    """Write `pytorch_lora_weights.safetensors`, whole or not at all.

    The file carries no alpha: every reader takes a missing alpha for the rank, while not every reader knows
    the metadata key in which diffusers would put it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / LORA_FILE) as temporary:
        write_tensors(temporary, _tensors(adapter, f"{COMPONENT}."))
    return folder / LORA_FILE


def write_peft(folder: Path, adapter: Adapter) -> Path:
    """Write `adapter_model.safetensors` and `adapter_config.json`, each whole or not at all.

    Raises:
        ValueError: The layers have different ranks.
    """
    if len(adapter.ranks) != 1:
        raise ValueError(
            f"the layers have ranks {adapter.ranks}; peft's format is written for one rank only."
        )
    settings = {
        "peft_type": "LORA",
        "r": adapter.ranks[0],
        "lora_alpha": adapter.ranks[0],  # the scale is in B
        "target_modules": sorted(adapter.layers),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PEFT_FILE) as temporary:
        write_tensors(temporary, _tensors(adapter, PEFT_PREFIX))
    with replacing(folder / PEFT_CONFIG) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return folder / PEFT_FILE


def _tensors(adapter: Adapter, prefix: str) -> dict[str, torch.Tensor]:
    halves = {
        f"{prefix}{layer}.lora_{half}.weight": value
        for layer, pair in adapter.layers.items()
        for half, value in zip("AB", pair, strict=True)
    }
    return {key: value.detach().float().cpu().contiguous() for key, value in halves.items()}
