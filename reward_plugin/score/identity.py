"""What made a score, in one short text that every row carries: `unipercept@3f2a91c0 pixels`.

Behind each name stands a digest of what decides its scores: the options of the scorer and the content of its
model folder. Where the folder lies, the device and the batch size are not part of it, so a run may go on
elsewhere; the number format is.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_plugin.errors import RewardError

#: Options that change how fast scores come, not what they are; and `revision`, which only chose the content.
NOT_SCORES = frozenset({"device", "batch_size", "compile", "revision"})
_ABSENT = object()
#: What decides a score in a model folder; cards, licences and pictures do not.
MODEL_FILES = frozenset({".json", ".safetensors", ".bin", ".pt", ".pth", ".onnx"})
#: Files up to this many bytes are read whole, of larger ones that many pieces of PIECE bytes.
WHOLE = 1 << 20
PIECES, PIECE = 64, 1 << 14


def scored_by(specs: Iterable[Mapping[str, Any]], exif: str = "ignore") -> str:
    """The text for scorers built from `specs`, as in a config, on pictures read with this `exif`."""
    parts = [describe(spec) for spec in specs]
    return " ".join(parts if exif == "ignore" else [*parts, f"exif={exif}"])


def describe(spec: Mapping[str, Any]) -> str:
    """`name`, or `name@digest` for a scorer with options that are not at their defaults."""
    options = dict(spec)
    name = options.pop("name", "?")
    defaults = _defaults(name)
    relevant = {
        key: _content(key, value, options)
        for key, value in options.items()
        if key not in NOT_SCORES and value != defaults.get(key, _ABSENT)
    }
    both = defaults | options
    if {"device", "dtype"} <= both.keys():
        relevant["dtype"] = _dtype(both["device"], both["dtype"])
    if not relevant:
        return str(name)
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()
    return f"{name}@{digest[:8]}"


def _defaults(name: str) -> dict[str, Any]:
    """The options of a scorer that have a default, with it."""
    from reward_plugin.scorers import SCORERS

    if name not in SCORERS:
        return {}  # building it will say what is wrong
    parameters = inspect.signature(SCORERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _dtype(device: str, dtype: str) -> str:
    """What `auto` stands for on this machine."""
    if dtype != "auto":
        return dtype
    from reward_plugin.devices import resolve

    return str(resolve(device, dtype)[1]).removeprefix("torch.")


def _content(key: str, value: Any, options: Mapping[str, Any]) -> Any:
    """An option, or the content of the file or folder that it names."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    if key == "path" and not path.exists():  # a hub id
        from reward_plugin.source import find_folder

        try:
            path = find_folder(str(value), options.get("revision"))
        except RewardError:
            return str(value)  # loading it will say what is wrong
    if path.is_file() or ("path" in key and path.is_dir()):
        return fingerprint(path)
    return str(value)


def fingerprint(path: Path) -> str:
    """A digest of a file, or of the model files at the top of a folder; of large ones, of pieces all over."""
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix in MODEL_FILES)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            for start in _starts(size):
                stream.seek(start)
                digest.update(stream.read(size if size <= WHOLE else PIECE))
    return digest.hexdigest()


def _starts(size: int) -> Sequence[int]:
    return (0,) if size <= WHOLE else tuple(i * (size - PIECE) // (PIECES - 1) for i in range(PIECES))
