"""Checkpoints for exact resuming: tensors as safetensors, the rest as JSON, nothing pickled.

A checkpoint is a folder `step-000500` that appears whole, by renaming, after its content is on disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reward_plugin.errors import ConfigError

NAME = re.compile(r"step-(\d{6,})")
VERSION = 1


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` for a file or folder; at the end it is flushed and takes its place.

    On an error nothing changes. What a killed process leaves begins with a dot; `sweep` deals with it.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(partial)
    try:
        yield partial
        for path in [partial, *(partial.rglob("*") if partial.is_dir() else ())]:
            _sync(path)
        if target.is_dir():  # which nothing can be renamed over
            os.rename(target, target.with_name(f".{target.name}.old"))
        os.replace(partial, target)
        _sync(target.parent)
    finally:
        sweep(target.parent)


def sweep(folder: Path) -> None:
    """Put back what was being replaced when its process was killed, and remove what is half written; only for
    the one process that writes.
    """
    for former in folder.glob(".*.old"):
        target = former.with_name(former.name[1:].removesuffix(".old"))
        if target.exists():
            _remove(former)
        else:
            os.rename(former, target)
    for leftover in folder.glob(".*.tmp"):
        _remove(leftover)


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `folder/step-NNNNNN` and remove all but the newest `keep`.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:06d}"
    with appearing(target) as partial:
        partial.mkdir()
        for title, named in tensors.items():
            whole = {name: value.detach().cpu().contiguous() for name, value in named.items()}
            try:
                save_file(whole, str(partial / f"{title}.safetensors"), metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(f"{folder} cannot be written to: {error}") from error
        content = json.dumps({"version": VERSION, "step": step, **state}, indent=1)
        (partial / "state.json").write_text(content + "\n", encoding="utf-8")
    for old in _all(folder)[:-keep]:
        doomed = old.with_name(f".{old.name}.tmp")
        os.rename(old, doomed)
        shutil.rmtree(doomed)
    return target


def load(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Tensors and state of a checkpoint folder.

    Raises:
        ConfigError: it is none, or of another version.
    """
    from safetensors.torch import load_file

    file = path / "state.json"
    if not file.is_file():
        raise ConfigError(
            f"--resume {path}: no checkpoint there (state.json is missing); give a folder step-NNNNNN."
        )
    state = json.loads(file.read_text(encoding="utf-8"))
    if state.get("version") != VERSION:
        raise ConfigError(
            f"--resume {path}: it has version {state.get('version')}, this program reads {VERSION}."
        )
    return {f.stem: load_file(str(f)) for f in sorted(path.glob("*.safetensors"))}, state


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, or none."""
    found = _all(folder)
    return found[-1] if found else None


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What an optimizer remembers of each parameter, as `<kind>/<name>`."""
    names = {id(value): name for name, value in parameters.items()}
    return {
        f"{kind}/{names[id(parameter)]}": torch.as_tensor(value)
        for parameter, slots in optimizer.state.items()
        for kind, value in slots.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """The inverse of `optimizer_tensors`; rates and decays stay those of the configuration."""
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # AdamW counts its steps on the CPU, whatever the device.
        where = torch.device("cpu") if kind == "step" else parameter.device
        optimizer.state[parameter][kind] = value.to(where, copy=True)


def _all(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
