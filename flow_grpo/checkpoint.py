"""Full states for exact resuming: tensors as safetensors, the rest as JSON, nothing pickled.

A checkpoint is a folder `step-000020` that appears whole, by renaming, after its content is on disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flow_grpo.files import discard, recover, replacing, sweep, write_tensors

NAME = re.compile(r"step-(\d{6,})")
VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """Attributes:
    tensors: Named sets of named tensors: adapter, ema, optimizer, best, random.
    state: Numbers and texts.
    """

    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]


def save(folder: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-NNNNNN` and remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    target = folder / name(step)
    with replacing(target) as temporary:
        temporary.mkdir()
        for title, tensors in checkpoint.tensors.items():
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            write_tensors(temporary / f"{title}.safetensors", whole)
        state = {"version": VERSION, **checkpoint.state}
        (temporary / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    for old in _all(folder)[:-keep]:
        discard(old)
    return target


def name(step: int) -> str:
    """Folder name of a checkpoint."""
    return f"step-{step:06d}"


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        ValueError: It is not one, or is of another version.
    """
    from safetensors.torch import load_file

    file = path / "state.json"
    if not file.is_file():
        raise ValueError(
            f"--resume {path}: no checkpoint there (state.json is missing); give a folder step-NNNNNN."
        )
    state = json.loads(file.read_text(encoding="utf-8"))
    if state.get("version") != VERSION:
        raise ValueError(
            f"--resume {path}: it has version {state.get('version')}, this program reads {VERSION}."
        )
    return Checkpoint({file.stem: load_file(str(file)) for file in sorted(path.glob("*.safetensors"))}, state)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, or none."""
    recover(folder)
    found = _all(folder)
    return found[-1] if found else None


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, torch.Tensor]:
    """An optimizer's state as flat named tensors; names are those of its parameters, in order."""
    state = optimizer.state_dict()["state"]
    return {
        f"{key}/{names[index]}": torch.as_tensor(v)
        for index, slot in state.items()
        for key, v in slot.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """The inverse of `optimizer_tensors`; hyper-parameters stay those of the configuration."""
    slots: dict[int, dict[str, torch.Tensor]] = {}
    index = {name: number for number, name in enumerate(names)}
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        slots.setdefault(index[name], {})[kind] = value.clone()  # the optimizer keeps what it is given
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _all(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [
        path
        for path in folder.glob("step-*")
        if NAME.fullmatch(path.name) and (path / "state.json").is_file()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
