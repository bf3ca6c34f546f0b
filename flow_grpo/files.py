"""Files and folders that are either there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: It cannot be written, as on a full disk; safetensors has an exception of its own for that.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), str(path), metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.parent} cannot be written to: {error}") from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; on success it is flushed to disk and renamed over `target`.

    Works for a file and for a folder; an existing target folder is removed first. On an error nothing
    changes.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        paths = [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]
        for path in paths:
            _sync(path)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        _remove(temporary)


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
