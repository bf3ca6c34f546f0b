"""What the command is given, as a list of items: files, folders, globs, and lists of pictures in files.

A list is a `.jsonl` file with one object a line, `{"image": PATH, "prompt": TEXT, ...}`, of which everything
but `image` is optional and further keys are carried into the output; or a `.txt` file with one path a line.
Relative paths in a list are relative to the list.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_plugin.errors import ConfigError

#: What is taken from a folder, or by a pattern without a suffix; a file that is named may have any.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class Item:
    """One picture to score.

    Attributes:
        image: path, relative to the working directory or absolute, as rows show it.
        prompt: what it should show, or None.
        extra: further keys of its line in a list.
    """

    image: str
    prompt: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str | None]:
        """What a resumed run recognises it by, however the path is written."""
        return os.path.abspath(self.image), self.prompt or None  # a CSV file cannot tell "" from none


def gather(
    sources: Sequence[str],
    *,
    prompt: str | None = None,
    recursive: bool = False,
    skip: str | Path | None = None,
) -> list[Item]:
    """All items of the command line, in its order; within a folder or glob by name.

    A file that is reached twice (named, and in a folder that is named) is one item; equal lines of a list
    stay apart.

    Args:
        sources: files, folders, patterns and lists.
        prompt: of those that bring none.
        recursive: look into the folders inside folders, too.
        skip: a file that is not taken from a folder or a pattern, such as an earlier run's contact sheet.

    Raises:
        ConfigError: a folder without pictures, a glob without matches, a damaged list.
    """
    items: list[Item] = []
    seen: set[tuple[str, str | None]] = set()
    skipped = None if skip is None else os.path.abspath(skip)
    for source in sources:
        if source.lower().endswith(".jsonl") and os.path.isfile(source):
            items += _json_lines(Path(source), prompt)
            continue
        for path in _paths(source, recursive):
            item = Item(path, prompt)
            if item.key not in seen and item.key[0] != skipped:
                seen.add(item.key)
                items.append(item)
    if not items:
        raise ConfigError(f"{', '.join(sources)}: nothing to score there")
    return items


def _paths(source: str, recursive: bool) -> Iterator[str]:
    if os.path.isdir(source):
        found = sorted(_in_folder(source, recursive))
        if not found:
            raise ConfigError(
                f"{source}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})"
                + ("" if recursive else "; --recursive looks into the folders inside it, too")
            )
        yield from found
    elif source.lower().endswith(".txt") and os.path.isfile(source):
        yield from _path_list(Path(source))
    elif glob.has_magic(source) and not os.path.exists(source):
        found = sorted(path for path in glob.glob(source, recursive=True) if not os.path.isdir(path))
        if not os.path.splitext(source)[1]:  # as a folder: captions beside the pictures are none
            found = [path for path in found if _is_picture(path)]
        if not found:
            raise ConfigError(f"{source}: no picture matches this pattern")
        yield from found
    else:
        yield source  # where it is missing, its row says so


def _in_folder(folder: str, recursive: bool) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in files:
            if not name.startswith(".") and _is_picture(name):
                yield os.path.join(parent, name)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _path_list(file: Path) -> list[str]:
    paths = [line.strip() for line in _text(file).split("\n")]
    paths = [os.path.join(os.path.dirname(file), path) for path in paths if path]
    if not paths:
        raise ConfigError(f"{file}: empty; it must list one picture a line")
    return paths


def _json_lines(file: Path, prompt: str | None) -> list[Item]:
    items = []
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f'{where}: not JSON ({error}); write {{"image": PATH, ...}}') from None
        if not isinstance(value, dict) or not isinstance(value.get("image"), str) or not value["image"]:
            raise ConfigError(f'{where}: no "image"; a line is {{"image": PATH, "prompt": TEXT, ...}}')
        text = value.pop("prompt", None)
        if text is not None and not isinstance(text, str):
            raise ConfigError(f'{where}: "prompt" is a {type(text).__name__}; it must be a text')
        image = os.path.join(os.path.dirname(file), value.pop("image"))
        items.append(Item(image, prompt if text is None else text, value))
    if not items:
        raise ConfigError(f'{file}: empty; it must have a line {{"image": PATH, ...}} for each picture')
    return items


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None
