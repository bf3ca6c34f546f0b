"""What the readers of data sets share: what they are asked, what they give, and files that may be missing."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from eval.unisim.datasets import DATASETS, Dataset
from eval.unisim.lines import check_name
from eval.unisim.manifest import LeftOut
from eval.unisim.samples import Sample


@dataclass(frozen=True)
class Ask:
    """What a reader is asked for.

    Attributes:
        key: Task and data set, such as `iqa/kadid`.
        root: The data root: the folder below which all data sets lie.
        split: One of the data set's.
        seed: Of what is drawn.
        count: How many questions, where they are drawn; None: all there are.
    """

    key: str
    root: Path
    split: str
    seed: int
    count: int | None

    @property
    def dataset(self) -> Dataset:
        return DATASETS[self.key]

    @cached_property
    def files(self) -> Files:
        return Files(self.root)

    def file(self, name: str) -> Path:
        """An index file of the data set.

        Raises:
            FileNotFoundError: It is not there; the message says how the data set is laid out.
        """
        path = self.root / name
        if not path.is_file():
            raise self.missing(path, "no such file")
        return path

    def folder(self, name: str) -> list[str]:
        """Names in a folder that the data set must have, sorted; hidden ones left out.

        Raises:
            FileNotFoundError: It is not there, or empty.
        """
        names = self.names(name)
        if not names:
            raise self.missing(self.root / name, "no such folder, or nothing in it")
        return names

    def names(self, name: str) -> list[str]:
        """Names in a folder, sorted; hidden ones left out; none where there is no such folder."""
        path = self.root / name
        return (
            sorted(entry for entry in os.listdir(path) if not entry.startswith(".")) if path.is_dir() else []
        )

    def missing(self, path: Path, what: str) -> FileNotFoundError:
        """The error for something that the data set is expected to have."""
        return FileNotFoundError(
            f"{path}: {what}; {self.dataset.title} is expected below {self.root} as "
            f"{self.dataset.layout} (from {self.dataset.download})"
        )


@dataclass
class Drawn:
    """What a reader gives; `Manifest` has the meaning of each attribute."""

    samples: list[Sample] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gallery: tuple[str, ...] = ()

    def leave(self, where: str, reason: str) -> None:
        """Leave a row out. What UTF-8 cannot hold of a bad row is written as an escape."""
        where, reason = (text.encode("utf-8", "backslashreplace").decode() for text in (where, reason))
        self.left_out.append(LeftOut(where, reason))


class Reader(Protocol):
    """Reads a data set, as published, into questions; an OSError or ValueError where it cannot be read."""

    def __call__(self, ask: Ask) -> Drawn: ...


class Files:
    """Which files there are below a root; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, frozenset[str]] = {}

    def problem(self, names: Iterable[str]) -> str | None:
        """What is wrong with the first of the names that cannot be read; None where all can be."""
        for name in names:
            try:
                folder, _, leaf = check_name(name).rpartition("/")
            except ValueError as error:
                return str(error)
            if folder not in self._folders:
                try:
                    self._folders[folder] = frozenset(os.listdir(self._root / folder))
                except OSError:
                    self._folders[folder] = frozenset()
            if leaf not in self._folders[folder]:
                return f"{name}: missing"
        return None


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str] | None]]:
    """Rows of a CSV file with a first line of names: where each stands, and its cells without outer blanks.

    A row that has more or fewer cells than the first line is None.

    Raises:
        ValueError: It is no such file, or a column is missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            names = [name.strip() for name in next(reader, [])]
            lacking = [column for column in columns if column not in names]
            if lacking:
                raise ValueError(f"{path}: no column {lacking[0]!r}; there are {', '.join(names) or 'none'}")
            rows: list[tuple[str, dict[str, str] | None]] = []
            for cells in reader:
                if cells:
                    row = (
                        dict(zip(names, map(str.strip, cells), strict=True))
                        if len(cells) == len(names)
                        else None
                    )
                    rows.append((f"{path.name}, line {reader.line_num}", row))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from None
    return rows


def read_list(path: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Entries of a JSON file that is a list of objects: where each stands, and the entry; None if no object.

    Raises:
        ValueError: It is no such file.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); it must be a list of entries") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: holds a {type(entries).__name__}; it must be a list of entries")
    return [
        (f"{path.name}, entry {index}", entry if isinstance(entry, dict) else None)
        for index, entry in enumerate(entries)
    ]


def finite(value: object) -> float | None:
    """The number that a cell or a JSON value is; None if it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def readable(value: object) -> TypeGuard[str]:
    """Whether a value is a text that is not blank and that UTF-8 can hold."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
