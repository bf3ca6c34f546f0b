"""What made a score, in one short text that every row carries: `unipercept@3f2a91c0 pixels`.

Behind each name stands a digest of what decides its scores: the options of the scorer, and the content of the
files that they name, given or by default. Where the files lie, the device and the batch size are not part of
it, so a run may go on elsewhere; the number format is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_plugin.errors import RewardError

#: Options that change how fast scores come, not what they are; and `revision`, which only chose the content.
NOT_SCORES = frozenset({"device", "batch_size", "compile", "revision", "threads"})
#: What decides a score in a model folder, by suffix or name; cards, licences and pictures do not.
WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx"})
SETTINGS = frozenset({".json", "vocab.txt", "merges.txt"})
#: Options that name a folder of which only the settings are read, whatever weights lie there.
SETTINGS_ONLY = frozenset({"clip", "tokenizer", "processor"})
#: Scorers whose weights come with, or are chosen by, a package: its version decides.
PACKAGES = {"ocr": "rapidocr", "pyiqa": "pyiqa"}
#: Files up to this many bytes are read whole, of larger ones that many pieces of PIECE bytes.
WHOLE = 1 << 20
PIECES, PIECE = 64, 1 << 14


def scored_by(specs: Iterable[Mapping[str, Any]], exif: str = "ignore") -> str:
    """The text for scorers built from `specs`, as in a config, on pictures read with this `exif`."""
    parts = [describe(spec) for spec in specs]
    return " ".join(parts if exif == "ignore" else [*parts, f"exif={exif}"])


def describe(spec: Mapping[str, Any]) -> str:
    """`name`, or `name@digest` for a scorer with files, or with options that are not at their defaults."""
    given = dict(spec)
    name = str(given.pop("name", "?"))
    defaults = _defaults(name)
    options = defaults | given
    relevant: dict[str, Any] = {
        key: value
        for key, value in given.items()
        if key not in NOT_SCORES and not (key in defaults and value == defaults[key])
    }
    for key, value in options.items():
        if value is not None and (content := _content(name, key, value, options)):
            relevant[key] = content
    if {"device", "dtype"} <= options.keys():
        relevant["dtype"] = _dtype(options["device"], options["dtype"])
    if name in PACKAGES:
        relevant |= _version(PACKAGES[name])
    if not relevant:
        return name
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()
    return f"{name}@{digest[:8]}"


def fingerprint(path: Path, *, weights: bool = True) -> str:
    """A digest of a file, or of the model files at the top of a folder; of large ones, of pieces all over.

    Args:
        path: file or folder.
        weights: whether a folder's weights count, beside its settings.
    """
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if _decides(f, weights))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            for start in _starts(size):
                stream.seek(start)
                digest.update(stream.read(size if size <= WHOLE else PIECE))
    return digest.hexdigest()


def _decides(file: Path, weights: bool) -> bool:
    return not SETTINGS.isdisjoint((file.suffix, file.name)) or (weights and file.suffix in WEIGHTS)


def _starts(size: int) -> Sequence[int]:
    return (0,) if size <= WHOLE else tuple(i * (size - PIECE) // (PIECES - 1) for i in range(PIECES))


def _defaults(name: str) -> dict[str, Any]:
    """The options of a scorer that have a default, with it."""
    from reward_plugin.scorers import SCORERS

    if name not in SCORERS:
        return {}  # a language command; or building it will say what is wrong
    parameters = inspect.signature(SCORERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _content(name: str, key: str, value: Any, options: Mapping[str, Any]) -> str | None:
    """A digest of the files that an option names; None where it names none, or they cannot be had."""
    if isinstance(value, Path):
        return fingerprint(value) if value.is_file() else None
    try:
        path = _source(name, key, str(value), options)
        return None if path is None else fingerprint(path, weights=not _settings_only(name, key, options))
    except (RewardError, OSError):
        return None  # loading it will say what is wrong


def _source(name: str, key: str, value: str, options: Mapping[str, Any]) -> Path | None:
    """The file or folder that a scorer reads for an option, downloaded as the scorer would."""
    from reward_plugin.source import find_folder

    if _settings_only(name, key, options):
        return find_folder(value, options.get("revision") if key == "path" else None, ("*.json", "*.txt"))
    if (name, key) == ("unisim", "weights"):
        return Path(value).expanduser()
    if stems := _weight_file(name, key, options):
        from reward_plugin.scorers.weights import find_file

        return find_file(value, stems, options.get("revision") if key == "path" else None)
    return find_folder(value, options.get("revision")) if key == "path" else None


def _settings_only(name: str, key: str, options: Mapping[str, Any]) -> bool:
    """Whether the settings of what an option names count, and no weights that lie there."""
    if (name, key) == ("unisim", "path"):
        from reward_plugin.unisim.loading import replaces_base

        return replaces_base(options["weights"])
    return key in SETTINGS_ONLY


def _weight_file(name: str, key: str, options: Mapping[str, Any]) -> Sequence[str]:
    """The names, without ending, of the one weight file that an option stands for; none for a folder."""
    from reward_plugin.scorers import hpsv2, imagereward, laion

    if (name, key) == ("hpsv2", "path"):
        return [stem for version, stem in hpsv2.FILES.items() if version == options["version"]]
    return {("imagereward", "path"): imagereward.STEMS, ("laion", "head"): laion.STEMS}.get((name, key), ())


def _dtype(device: str, dtype: str) -> str:
    """What `auto` stands for on this machine."""
    if dtype != "auto":
        return dtype
    from reward_plugin.devices import resolve

    return str(resolve(device, dtype)[1]).removeprefix("torch.")


def _version(package: str) -> dict[str, str]:
    try:
        return {"package": f"{package} {importlib.metadata.version(package)}"}
    except importlib.metadata.PackageNotFoundError:
        return {}  # building it will say how to install it
