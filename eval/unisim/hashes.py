"""SHA-256 of pictures: read by several threads, once per file as long as its size and time stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

from eval.unisim.manifest import Manifest

#: So many files are looked at between two looks at the clock, and at least so many seconds lie between two
#: writes of the cache, which is what it costs to be killed.
_EVERY, _SAVE_AFTER = 500, 60.0
_THREADS = 4


@dataclass(frozen=True)
class Hashed:
    """Of the files that were asked for.

    Attributes:
        hashes: Name -> SHA-256.
        problems: Name -> why it has none: it is missing, or no picture can be decoded from it.
    """

    hashes: Mapping[str, str]
    problems: Mapping[str, str]


@dataclass(frozen=True)
class _Entry:
    size: int
    modified: int
    sha256: str
    problem: str | None


def hash_pictures(
    root: Path, names: Sequence[str], *, cache: Path | None = None, threads: int = _THREADS, label: str = ""
) -> Hashed:
    """Hash pictures and decode each once, so that a broken one is found now.

    Args:
        root: The data root.
        names: Of files below it.
        cache: A file that remembers what was found; made where it is not there, ignored where it is damaged.
        threads: How many files are read at a time.
        label: Text of the progress bar; no bar without one.
    """
    from tqdm import tqdm

    known = _remembered(cache)
    base = os.path.abspath(root)
    hashes: dict[str, str] = {}
    problems: dict[str, str] = {}
    names = list(dict.fromkeys(names))

    def look(name: str) -> tuple[str, _Entry | str]:
        path = os.path.join(base, name)
        return path, _look(path, known.get(path))

    fresh, saved = False, time.monotonic()
    with (
        tqdm(total=len(names), desc=label, unit="file", disable=not label) as bar,
        ThreadPoolExecutor(max(threads, 1)) as pool,
    ):
        try:
            for part in _parts(names):
                for name, (path, found) in zip(part, pool.map(look, part), strict=True):
                    if isinstance(found, str):
                        problems[name] = found
                    else:
                        fresh |= known.get(path) != found
                        known[path] = found
                        if found.problem is None:
                            hashes[name] = found.sha256
                        else:
                            problems[name] = found.problem
                    bar.update()
                if fresh and cache is not None and time.monotonic() - saved > _SAVE_AFTER:
                    _remember(cache, known)
                    fresh, saved = False, time.monotonic()
        finally:  # an interruption, too, keeps what was found
            if fresh and cache is not None:
                _remember(cache, known)
    return Hashed(hashes, problems)


def check_pictures(manifest: Manifest, root: Path, *, threads: int = _THREADS) -> dict[str, str]:
    """Name -> what is wrong, for each picture of a manifest that is missing, unreadable or another file now.

    Files are read whole; nothing is decoded and nothing remembered. What is fine is not named.
    """

    def look(name: str) -> str | None:
        try:
            found = hashlib.sha256((root / name).read_bytes()).hexdigest()
        except OSError as error:
            return _reason(error)
        expected = manifest.hashes[name]
        return None if found == expected else f"changed: SHA-256 {found}, and {expected} in the manifest"

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        results = pool.map(look, manifest.names)
        return {name: what for name, what in zip(manifest.names, results, strict=True) if what is not None}


def _look(path: str, known: _Entry | None) -> _Entry | str:
    """What is there now; text where the file cannot be read at all."""
    try:
        status = os.stat(path)
        if known is not None and (known.size, known.modified) == (status.st_size, status.st_mtime_ns):
            return known
        content = Path(path).read_bytes()
    except OSError as error:
        return _reason(error)
    digest = hashlib.sha256(content).hexdigest()
    return _Entry(status.st_size, status.st_mtime_ns, digest, _undecodable(content))


def _reason(error: OSError) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()


def _undecodable(content: bytes) -> str | None:
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
    except Exception as error:  # decoders raise what they like
        return f"not a picture, or damaged ({type(error).__name__}: {error})"
    return None


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while part := list(islice(rest, _EVERY)):
        yield part


def _remembered(cache: Path | None) -> dict[str, _Entry]:
    if cache is None:
        return {}
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
        return {path: _Entry(*entry) for path, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # it only saves time


def _remember(cache: Path, known: Mapping[str, _Entry]) -> None:
    """Write the cache whole. It is not flushed to disk: what a power failure takes is found again."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    beside = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump({path: [e.size, e.modified, e.sha256, e.problem] for path, e in known.items()}, file)
    os.replace(beside, cache)
