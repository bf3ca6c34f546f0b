"""Files and folders that are either there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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

    Works for a file and for a folder. On an error nothing changes. Nor does it when the process is killed, at
    whatever moment: `recover` and `sweep` deal with what it has left.
    """
    temporary = _beside(target, f"{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        paths = [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]
        for path in paths:
            _sync(path)
        former = _beside(target, "old")
        if target.is_dir():  # which nothing can be renamed over
            _remove(former)
            os.rename(target, former)
        os.replace(temporary, target)
        _sync(target.parent)
        _remove(former)
    finally:
        recover(target.parent)
        _remove(temporary)


def discard(folder: Path) -> None:
    """Remove a folder so that it is never there in part."""
    doomed = _beside(folder, f"{os.getpid()}.tmp")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def recover(parent: Path) -> None:
    """Put a folder back that was being replaced when its process was killed. Any process may call it."""
    for former in parent.glob(".*.old"):
        target = former.with_name(former.name[1:].removesuffix(".old"))
        if not target.exists():
            with suppress(OSError):  # another process has done it
                os.rename(former, target)


def sweep(parent: Path) -> None:
    """Remove what killed processes have left beside their targets. Only for the one process that writes."""
    recover(parent)
    for pattern in (".*.[0-9]*.tmp", ".*.old"):
        for leftover in parent.glob(pattern):
            _remove(leftover)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


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
