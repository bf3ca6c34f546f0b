"""One model in memory for all who ask for the same checkpoint.

UniPercept's questions and ArtiMuse's asked of one checkpoint, or a chat beside a scorer, are different
engines on the same weights: 16 GB in bfloat16. Here the first one loads them and the others find them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from reward_plugin.checkpoint import Checkpoint
    from reward_plugin.internvl import RatingEngine


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint whose model lives only as long as somebody else uses it."""

    model: weakref.ref[torch.nn.Module]
    rest: Mapping[str, Any]


_loaded: dict[tuple[object, ...], _Loaded] = {}
# One load at a time, whichever checkpoint: transformers sets torch's default dtype, which all threads share.
_loading = threading.Lock()


def shared_checkpoint(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype,
    attention: str = "sdpa",
    revision: str | None = None,
    quantise: str | None = None,
) -> Checkpoint:
    """What `load_checkpoint` returns, with a model that this process already has where it has it.

    A model is shared by those who name the same files and the same device, dtype, attention and quantisation;
    it is freed with its last user. Whoever shares it must leave its weights and settings as they are; to
    train or to change a model, load one with `load_checkpoint`. May be called from several threads.

    Files count as the same while their names, sizes and times of change are, so a checkpoint that was written
    anew is loaded anew.
    """
    import torch

    from reward_plugin.checkpoint import Checkpoint, load_checkpoint
    from reward_plugin.source import find_folder

    where = torch.device(device)
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    folder = find_folder(path, revision).resolve()
    with _loading:
        for old in [key for key, entry in _loaded.items() if entry.model() is None]:
            del _loaded[old]
        key = (folder, _state(folder), where, dtype, attention, quantise)
        if (entry := _loaded.get(key)) and (model := entry.model()) is not None:
            return Checkpoint(model=model, **entry.rest)
        checkpoint = load_checkpoint(
            folder, device=where, dtype=dtype, attention=attention, quantise=quantise
        )
        rest = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint) if f.name != "model"}
        _loaded[key] = _Loaded(weakref.ref(checkpoint.model), rest)
        return checkpoint


def rating_engine(
    questions: Mapping[str, str],
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    system_message: str | None = None,
    attention: str = "sdpa",
    revision: str | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    resize: str = "pil",
    quantise: str | None = None,
) -> RatingEngine:
    """An engine for `questions` (dimension -> question) on a shared model; options as written in a config.

    What they mean is said at `reward_plugin.scorers.unipercept.build`.
    """
    from reward_plugin.devices import resolve
    from reward_plugin.internvl import RatingEngine

    where, numbers = resolve(device, dtype)
    checkpoint = shared_checkpoint(
        path, device=where, dtype=numbers, attention=attention, revision=revision, quantise=quantise
    )
    return RatingEngine(
        checkpoint,
        questions,
        system_message=system_message,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
        resize=resize,
    )


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size in bytes and time of change in nanoseconds of each file that a checkpoint is made of."""
    files = sorted(file for suffix in ("json", "txt", "safetensors") for file in folder.glob(f"*.{suffix}"))
    status = [(file.name, file.stat()) for file in files]
    return tuple((name, of.st_size, of.st_mtime_ns) for name, of in status)
