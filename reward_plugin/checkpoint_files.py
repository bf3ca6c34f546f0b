"""The files of a checkpoint folder: JSON, and weights in one safetensors file or in shards with an index.

Pickled `.bin` weights are refused: unpickling can run code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from reward_plugin.errors import CheckpointError


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, each of which exists.

    Raises:
        CheckpointError: a file is missing, or the weights are pickled.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index, "download it").get("weight_map")
        if not isinstance(names, dict) or not names:
            raise CheckpointError(f"{index}: has no weight_map, which names the shards; download it again")
        for name in names.values():
            if not isinstance(name, str) or Path(name).name != name:
                raise CheckpointError(f"{index}: weight_map names {name!r}, which is no file beside it")
        files = [folder / name for name in sorted(set(names.values()))]
        rule = f"{index.name} lists {len(files)} shards"
    else:
        files = [folder / "model.safetensors"]
        rule = "a checkpoint has model.safetensors, or model.safetensors.index.json and its shards"
        pickled = sorted(folder.glob("pytorch_model*.bin*"))
        if pickled and not files[0].is_file():
            raise CheckpointError(
                f"{pickled[0]}: only pickled weights, which are not read, because unpickling can run code; "
                "take a revision of the repository that has safetensors, or convert them: "
                "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
            )
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; {rule}: download the checkpoint again")
    return files


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint by name.

    Raises:
        CheckpointError: see `weight_files`; or a file is damaged.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: damaged or incomplete ({error}); download it again") from error
    return weights


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        file: where it is.
        remedy: what to say where there is no such file.

    Raises:
        CheckpointError: it is missing, or holds no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: must hold a JSON object, holds a {type(content).__name__}")
    return content
