"""Frozen questions: a JSON Lines file whose first line says what they are of, then a line for each.

```
{"format": "unisim-bench manifest", "version": 1, "dataset": "nights", "task": "img_2afc", "split": "test",
 "seed": 0, "samples": 1824, "left_out_count": 1, "left_out": [{"where": "...", "reason": "..."}],
 "notes": []}
{"id": "100", "images": ["nights/ref/000/100.png", ...], "sha256": ["...", ...], "label": 0}
```

`ir` has `gallery` and `gallery_sha256` in its first line. The same questions make the same bytes, so the
digest says which questions a score is of.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.unisim.lines import check_hash, check_items, check_keys, check_name, parsed
from eval.unisim.samples import TASKS, Sample, Task
from flow_grpo.files import replacing

FORMAT = "unisim-bench manifest"
VERSION = 1
#: How many of the rows that were left out a manifest names; it counts all.
NAMED = 200
#: Key of the first line -> its type. `ir` has two more, and there is a count where one was asked for.
_HEADER = {
    "format": str, "version": int, "dataset": str, "task": str, "split": str, "seed": int, "samples": int,
    "left_out_count": int, "left_out": list, "notes": list,
}  # fmt: skip
_GALLERY = {"gallery": list, "gallery_sha256": list}
_OPTIONAL = {"count": int}
#: Key of a question's line -> its type; the first three are always there.
_LINE = {
    "id": str, "images": list, "sha256": list, "texts": list, "label": int, "attribute": str,
    "easy": list, "hard": list, "junk": list,
}  # fmt: skip
_INDICES = ("easy", "hard", "junk")
#: What JSON need not escape and some readers take for the end of a line.
_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


@dataclass(frozen=True)
class LeftOut:
    """A row that is no question: where it stands in the data set, and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Questions of one task, drawn from one data set.

    Attributes:
        dataset: Its name.
        task: What is asked.
        split: Of the data set.
        seed: Of what was drawn.
        samples: The questions; at least one.
        gallery: Names of the pictures that `ir` ranks, in the order that its indices mean; else empty.
        hashes: Name of a picture -> SHA-256 of its file, for every picture of the questions and the gallery.
        left_out: Rows that are no question; of many, the first and the last, `NAMED` together.
        left_out_count: How many there are in all.
        notes: What a reader must know, one sentence each.
        count: How many questions were asked for, which may be more than there are; None: all.
        digest: SHA-256 of the file; empty before it is written.
    """

    dataset: str
    task: Task
    split: str
    seed: int
    samples: tuple[Sample, ...]
    gallery: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0
    notes: tuple[str, ...] = ()
    count: int | None = None
    digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        what = f"{self.task}/{self.dataset}"
        if self.task not in TASKS:
            raise ValueError(f"{what}: unknown task; known are {', '.join(TASKS)}")
        if not self.samples:
            raise ValueError(f"{what}: no question; a manifest has at least one")
        if bool(self.gallery) != (self.task == "ir"):
            raise ValueError(
                f"{what}: a gallery of {len(self.gallery)} pictures; ir has one, other tasks none"
            )
        repeated = [name for name, count in Counter(self.gallery).items() if count > 1]
        if repeated:
            raise ValueError(f"{what}: the gallery has {repeated[0]!r} twice; an index must mean one picture")
        if self.left_out_count < len(self.left_out):
            raise ValueError(
                f"{what}: left_out_count {self.left_out_count}; left_out names {len(self.left_out)} already"
            )
        seen: set[str] = set()
        for number, sample in enumerate(self.samples, start=2):
            try:
                self._check(sample, seen)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        for name in self.names:
            check_name(name)
            check_hash(name, self.hashes.get(name))

    @property
    def names(self) -> tuple[str, ...]:
        """Every picture once, in the order of first use; the gallery last."""
        return tuple(dict.fromkeys([*(n for s in self.samples for n in s.images), *self.gallery]))

    def _check(self, sample: Sample, seen: set[str]) -> None:
        if sample.task != self.task:
            raise ValueError(
                f"{sample.id}: task {sample.task!r}; a manifest has one task, here {self.task!r}"
            )
        if not sample.id or sample.id in seen:
            raise ValueError(f"id {sample.id!r}: empty or there before; each question has its own")
        seen.add(sample.id)
        indices = [*sample.easy, *sample.hard, *sample.junk]
        outside = [index for index in indices if not 0 <= index < len(self.gallery)]
        if outside:
            raise ValueError(
                f"{sample.id}: index {outside[0]} of easy, hard or junk; the gallery has {len(self.gallery)}"
            )
        if len(set(indices)) != len(indices):
            raise ValueError(f"{sample.id}: easy, hard and junk name a picture twice; each is of one kind")


def write_manifest(manifest: Manifest, path: Path) -> Manifest:
    """Write the file, whole or not at all; the same questions make the same bytes.

    Returns:
        The manifest with its digest.

    Raises:
        ValueError: a text that UTF-8 cannot hold.
        OSError: it cannot be written.
    """
    lines = [_header(manifest), *(_line(sample, manifest.hashes) for sample in manifest.samples)]
    try:
        content = "".join(
            json.dumps(line, ensure_ascii=False).translate(_BREAKS) + "\n" for line in lines
        ).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path}: {error.object[max(error.start - 40, 0) : error.end]!r}: not Unicode"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(content)
    return replace(manifest, digest=hashlib.sha256(content).hexdigest())


def read_manifest(path: Path) -> Manifest:
    """Read a file that `write_manifest` has written, and check every line.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file; the message names the file, the line, the key and the rule.
    """
    content = path.read_bytes()
    lines = content.split(b"\n")
    if lines.pop():
        raise ValueError(f"{path}:{len(lines) + 1}: cut off within a line; make the manifest again")
    head = "the first line"
    header = parsed(lines[0] if lines else b"{}", f"{path}:1", head)
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"{path}:1: format {header.get('format')!r}, version {header.get('version')!r}; "
            f"this reads {FORMAT!r}, version {VERSION}"
        )
    keys = {**_HEADER, **(_GALLERY if header.get("task") == "ir" else {})}
    check_keys(header, {**keys, **_OPTIONAL}, tuple(keys), f"{path}:1", head)
    _check_header(header, f"{path}:1")
    if len(lines) - 1 != header["samples"]:
        raise ValueError(
            f"{path}:1: samples {header['samples']}, but {len(lines) - 1} questions follow; make it again"
        )
    hashes: dict[str, str] = {}
    _gather(
        hashes, header.get("gallery", ()), header.get("gallery_sha256", ()), f"{path}:1", "gallery_sha256"
    )
    samples = tuple(
        _sample(parsed(line, f"{path}:{number}", "a question"), header["task"], hashes, f"{path}:{number}")
        for number, line in enumerate(lines[1:], start=2)
    )
    try:
        return Manifest(
            header["dataset"],
            header["task"],
            header["split"],
            header["seed"],
            samples,
            tuple(header.get("gallery", ())),
            hashes,
            tuple(LeftOut(**entry) for entry in header["left_out"]),
            header["left_out_count"],
            tuple(header["notes"]),
            header.get("count"),
            hashlib.sha256(content).hexdigest(),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _header(manifest: Manifest) -> dict[str, Any]:
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    header |= {key: getattr(manifest, key) for key in ("dataset", "task", "split", "seed")}
    header["samples"] = len(manifest.samples)
    if manifest.count is not None:
        header["count"] = manifest.count
    header["left_out_count"] = manifest.left_out_count
    header["left_out"] = [{"where": row.where, "reason": row.reason} for row in manifest.left_out]
    header["notes"] = list(manifest.notes)
    if manifest.task == "ir":
        header["gallery"] = list(manifest.gallery)
        header["gallery_sha256"] = [manifest.hashes[name] for name in manifest.gallery]
    return header


def _line(sample: Sample, hashes: Mapping[str, str]) -> dict[str, Any]:
    line: dict[str, Any] = {"id": sample.id, "images": list(sample.images)}
    line["sha256"] = [hashes[name] for name in sample.images]
    if sample.texts:
        line["texts"] = list(sample.texts)
    if sample.label is not None:
        line["label"] = sample.label
    if sample.attribute is not None:
        line["attribute"] = sample.attribute
    if sample.task == "ir":
        line |= {key: list(getattr(sample, key)) for key in _INDICES}
    return line


def _sample(line: Mapping[str, Any], task: Task, hashes: dict[str, str], where: str) -> Sample:
    check_keys(line, _LINE, ("id", "images", "sha256"), where, "a question")
    for key, kind in (("images", str), ("texts", str), *((name, int) for name in _INDICES)):
        check_items(line.get(key, []), kind, where, key)
    _gather(hashes, line["images"], line["sha256"], where, "sha256")
    try:
        return Sample(
            line["id"],
            task,
            tuple(line["images"]),
            tuple(line.get("texts", ())),
            line.get("label"),
            line.get("attribute"),
            *(tuple(line.get(key, ())) for key in _INDICES),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _gather(
    hashes: dict[str, str], names: Sequence[str], values: Sequence[object], where: str, key: str
) -> None:
    if len(values) != len(names):
        raise ValueError(f"{where}: {key} has {len(values)} entries for {len(names)} pictures; one each")
    for name, value in zip(names, values, strict=True):
        try:
            check_name(name)
            known = hashes.setdefault(name, check_hash(name, value))
        except ValueError as error:
            raise ValueError(f"{where}: {key}: {error}") from None
        if known != value:
            raise ValueError(
                f"{where}: {key}: {name!r} has another hash in an earlier line; a name is one file"
            )


def _check_header(header: Mapping[str, Any], where: str) -> None:
    check_items(header["notes"], str, where, "notes")
    check_items(header.get("gallery", []), str, where, "gallery")
    for entry in header["left_out"]:
        if not isinstance(entry, dict) or set(entry) != {"where", "reason"}:
            raise ValueError(f'{where}: left_out: {entry!r}; an entry is {{"where": TEXT, "reason": TEXT}}')
        check_items(list(entry.values()), str, where, "left_out")


def bounded(rows: Sequence[LeftOut]) -> tuple[tuple[LeftOut, ...], int]:
    """What a manifest names of the rows that were left out, the first and last of many, and their number."""
    if len(rows) <= NAMED:
        return tuple(rows), len(rows)
    return (*rows[: NAMED // 2], *rows[-NAMED // 2 :]), len(rows)
