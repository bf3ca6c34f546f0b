"""Published weight files: where they are, what is in them, and strictly into a model.

Torch files are read with `weights_only=True`, which builds tensors and runs no code of the file. `python -m
reward_plugin.scorers.weights FILE` writes the same weights as safetensors beside it, which load faster and
are looked for first.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from reward_plugin.errors import CheckpointError
from reward_plugin.source import find_folder

log = logging.getLogger(__name__)
_LAYER = re.compile(r"layers\.(\d+)\.(?:weight|bias)")


def find_file(path: str, stems: Sequence[str], revision: str | None = None) -> Path:
    """The weight file at `path`: that file, or the first of `stems` in a folder or a hub repository.

    Args:
        path: a file; a folder; or a hub id.
        stems: names without ending; .safetensors is preferred to .pt and .pth.

    Raises:
        CheckpointError: there is none, with the names looked for.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    names = [stem + ending for stem in stems for ending in (".safetensors", ".pt", ".pth")]
    folder = find_folder(path, revision, names)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder}: holds none of {', '.join(names)}; put the published file there, or give it as path"
    )


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weight file by name; a `state_dict` inside and a leading `module.` are unwrapped.

    Raises:
        CheckpointError: the file is damaged, or holds something else than tensors.
    """
    return read_with_settings(file)[0]


def read_with_settings(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As `read_weights`, and the numbers and texts that stand beside `state_dict`, or in the metadata."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return load_file(file), dict(opened.metadata() or {})
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file}: damaged, or not a file of weights alone ({reason}); download it again"
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise CheckpointError(f"{file}: does not hold tensors by name; is this the published weight file?")
    log.info(
        "%s: a torch file; python -m reward_plugin.scorers.weights %s turns it to safetensors", file, file
    )
    settings = {name: value for name, value in content.items() if isinstance(value, str | int | float)}
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}, settings


def into_model(
    kind: Any,
    config: Any,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    origin: Path,
    **options: Any,
) -> Any:
    """A transformers model of class `kind` with exactly these weights.

    Raises:
        CheckpointError: a weight is missing, left over, or of another shape.
    """
    try:
        model, info = kind.from_pretrained(
            None, config=config, state_dict=dict(weights), dtype=dtype, output_loading_info=True, **options
        )
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{origin}: the weights cannot be loaded: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[problem])):
            raise CheckpointError(
                f"{origin}: {len(names)} {problem.replace('_', ' ')} for {kind.__name__}, first {names[0]}; "
                "is this the published weight file, and complete?"
            )
    return model.eval().requires_grad_(False)


def linear_stack(weights: Mapping[str, torch.Tensor], width: int, origin: Path) -> nn.Sequential:
    """The head of LAION's predictor and of ImageReward: linear layers, without activations between.

    Args:
        weights: `layers.N.weight` and `layers.N.bias`, N rising, as published.
        width: inputs of the first layer; the last has one output.

    Raises:
        CheckpointError: other names, or shapes that do not follow each other.
    """
    numbers = sorted({int(match[1]) for match in map(_LAYER.fullmatch, weights) if match})
    expected = {f"layers.{n}.{kind}" for n in numbers for kind in ("weight", "bias")}
    layers = []
    for n in numbers if expected == set(weights) else ():
        weight, bias = weights[f"layers.{n}.weight"].float(), weights[f"layers.{n}.bias"].float()
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise CheckpointError(
                f"{origin}: layers.{n}.weight has shape {tuple(weight.shape)}, but {width} inputs come in; "
                "head and model are not of one scorer"
            )
        layer = nn.Linear(width, len(bias))
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
        width = len(bias)
    if not layers or width != 1:
        raise CheckpointError(
            f"{origin}: not a head of layers.N.weight and layers.N.bias that ends in one score; "
            f"it holds {', '.join(sorted(weights)[:4]) or 'nothing'}"
        )
    return nn.Sequential(*layers).eval().requires_grad_(False)


def to_safetensors(file: Path) -> Path:
    """Write the weights of a torch file as safetensors beside it; the new file's path."""
    target = file.with_suffix(".safetensors")
    weights, settings = read_with_settings(file)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    metadata = {name: str(value) for name, value in settings.items()}
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, partial, metadata)
    os.replace(partial, target)
    return target


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(to_safetensors(Path(argument)))
