"""Prompt files: our own, and those of the public benchmarks, read into one record.

A prompt is known by its index in the file, never by its text: groups, noise and pairs are keyed by the index.
A text that stands twice in a file would count twice in every mean. That is an error unless asked for, and
even then the two stay separate: nothing is dropped or merged silently.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

TEXT_COLUMNS = ("prompt", "prompts", "text")
"""Columns of a table that hold the prompt, in lower case: PartiPrompts, DrawBench, DPG-Bench."""

CATEGORY_COLUMNS = ("category", "category_broad", "tag")
"""Columns or keys that hold the category, in lower case; "category_broad" is DPG-Bench's, "tag" GenEval's."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: What the picture should show; never empty, no white space at its ends.
        category: The kind of prompt, as the file names it; None where the file has none.
        index: Position among the file's prompts, from 0.
        metadata: Whatever else the file says about it (GenEval: `include`; PartiPrompts: `Challenge`).
    """

    text: str
    category: str | None = None
    index: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


class _Entry(NamedTuple):
    where: str  # "line 12", or a file's name in a folder
    text: str
    category: str | None
    metadata: dict[str, Any]
    problem: str | None = None  # why this entry is no prompt


def read_prompts(
    path: str | Path,
    allow_duplicates: bool = False,
    *,
    format: str = "auto",
    broken: list[str] | None = None,
) -> list[Prompt]:
    """Read a prompt file, or a folder with one text file for each prompt (DPG-Bench), in UTF-8.

    The ending tells the format; the README beside the shipped prompt files shows each:
        .txt    one prompt a line; blank lines and lines that begin with # are skipped
        .jsonl  one object a line with "prompt" and perhaps "category" (GenEval: "tag")
        .csv    with a header: Prompts and Category (DrawBench); item_id, text, category_broad (DPG-Bench)
        .tsv    with a header: Prompt and Category (PartiPrompts); quotation marks belong to the text

    Args:
        path: The file or folder.
        allow_duplicates: Keep equal texts, each as an entry with its own index, instead of raising.
        format: auto, or one of FORMATS, for a file with another ending or to be sure what it is.
        broken: Where given, entries that are no prompts are left out and described here instead of raising.
            They keep their place: the others have the indices that they will have when it is mended.

    Returns:
        At least one prompt, in the file's order (a folder: by number, then by name), indices 0, 1, 2, ...

    Raises:
        ValueError: Names the file, line, rule and remedy, if the file is missing, empty, malformed
            or not UTF-8, a prompt is empty, or texts are equal up to case and white space.
    """
    path = Path(path)
    entries = _entries(path, format)
    if not entries:
        raise ValueError(f"prompt file {path} holds no prompt; add at least one")
    prompts = []
    for index, entry in enumerate(entries):
        problem = entry.problem
        if problem is None and not entry.text.strip():
            problem = "the prompt is empty; write one or remove the entry"
        if problem is None:
            prompts.append(Prompt(entry.text.strip(), entry.category, index, entry.metadata))
        elif broken is None:
            raise ValueError(f"{path}, {entry.where}: {problem}")
        else:
            broken.append(f"{entry.where}: {problem}")
    if not prompts:
        raise ValueError(
            f"prompt file {path} holds no prompt, only broken entries; the first: {broken and broken[0]}"
        )
    if not allow_duplicates:
        _refuse_duplicates(path, prompts, entries)
    return prompts


def _entries(path: Path, format: str) -> list[_Entry]:
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"prompt format {format!r} is unknown; give auto or one of {', '.join(FORMATS)}")
    if path.is_dir():
        if format not in ("auto", "dpg"):
            raise ValueError(f"prompt file {path} is a folder, which is DPG-Bench's layout, not {format}")
        return list(_read_folder(path))
    if not path.is_file():
        raise ValueError(f"prompt file {path} does not exist; give the path of {_formats()}")
    if format != "auto":
        reader, words = FORMATS[format]
        content = _decode(path)
        first = content.lstrip().partition("\n")[0].casefold()
        absent = [word for word in words if word not in first]
        if content.strip() and absent:
            raise ValueError(
                f"prompt file {path}: its first line has no {absent[0]!r}, so it is not {format}'s"
            )
        return list(reader(path, content))
    if path.suffix.lower() not in READERS:
        raise ValueError(f"prompt file {path}: unknown ending {path.suffix!r}; give {_formats()}")
    return list(READERS[path.suffix.lower()](path, _decode(path)))


def fold(text: str) -> str:
    """The text by which duplicates are found: case folded, every run of white space one space."""
    return " ".join(text.casefold().split())


def duplicates(prompts: Sequence[Prompt]) -> list[tuple[Prompt, ...]]:
    """Groups of two or more prompts whose texts are equal after `fold`, in order of first members."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(fold(prompt.text), []).append(prompt)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _refuse_duplicates(path: Path, prompts: Sequence[Prompt], entries: Sequence[_Entry]) -> None:
    groups = duplicates(prompts)
    if not groups:
        return
    shown = "; ".join(
        f"{' = '.join(entries[prompt.index].where for prompt in group)} ({group[0].text[:60]!r})"
        for group in groups[:10]
    )
    more = f"; and {len(groups) - 10} more" if len(groups) > 10 else ""
    raise ValueError(
        f"prompt file {path}: {len(groups)} texts stand in it more than once (up to case and white space): "
        f"{shown}{more}; remove them, or set allow_duplicates to keep them as separate entries"
    )


def _formats() -> str:
    return f"a {', '.join(READERS)} file, or a folder of .txt files"


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error


def _read_lines(path: Path, content: str) -> Iterator[_Entry]:
    # StringIO, not splitlines, which also breaks at characters that may stand inside a prompt (U+2028).
    for number, line in enumerate(io.StringIO(content, newline=None), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _Entry(f"line {number}", line, None, {})


def _read_jsonl(path: Path, content: str) -> Iterator[_Entry]:
    for number, line in enumerate(io.StringIO(content, newline=None), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield _Entry(where, "", None, {}, f"not JSON ({error}); write one object on each line")
            continue
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            yield _Entry(where, "", None, {}, 'no text under the key "prompt"; write {"prompt": "..."}')
            continue
        key = next((key for key in CATEGORY_COLUMNS if record.get(key) is not None), None)
        category = record[key] if key else None
        if category is not None and not isinstance(category, str):
            yield _Entry(
                where, "", None, {}, f'"{key}" is {category!r}, must be a text; put it in quotation marks'
            )
            continue
        metadata = {name: value for name, value in record.items() if name not in ("prompt", key)}
        yield _Entry(where, record["prompt"], category, metadata)


def _read_csv(path: Path, content: str) -> Iterator[_Entry]:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    entries = _read_table(path, reader)
    return _one_per_item(path, entries) if "item_id" in (reader.fieldnames or ()) else entries


def _read_tsv(path: Path, content: str) -> Iterator[_Entry]:
    # PartiPrompts is not quoted: '"G I G G L E" painted in ...' is a text that begins with a quotation mark.
    return _read_table(
        path, csv.DictReader(io.StringIO(content, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    )


def _read_either(path: Path, content: str) -> Iterator[_Entry]:
    """DrawBench is handed on with commas and with tabs."""
    return _read_tsv(path, content) if "\t" in content.partition("\n")[0] else _read_csv(path, content)


def _read_table(path: Path, reader: csv.DictReader[str]) -> Iterator[_Entry]:
    header = list(reader.fieldnames or ())
    text_column = _column(header, TEXT_COLUMNS)
    category_column = _column(header, CATEGORY_COLUMNS)
    if header and text_column is None:
        raise ValueError(
            f"{path}, line 1: no column with the prompts among {header}; "
            f"name it one of {', '.join(TEXT_COLUMNS)}"
        )
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row:
                rule = "put a text that holds the delimiter in quotation marks"
                yield _Entry(where, "", None, {}, f"more fields than the header's {len(header)}; {rule}")
                continue
            text = row.pop(text_column or "") or ""
            category = (row.pop(category_column) or None) if category_column else None
            yield _Entry(where, text, category, {name: value for name, value in row.items() if value})
    except csv.Error as error:  # DictReader's own line_num still stands at the row before
        raise ValueError(
            f"{path}, line {reader.reader.line_num}: malformed table ({error}); correct the line"
        ) from error


def _column(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next((column for name in names for column in header if column.strip().lower() == name), None)


def _one_per_item(path: Path, rows: Iterator[_Entry]) -> Iterator[_Entry]:
    """DPG-Bench has one row for each question about a prompt: join the rows of an item to one entry.

    The category is kept where all questions of the item share one; all of them are in the metadata.
    """
    items: dict[str, list[_Entry]] = {}
    for row in rows:
        if row.problem is not None:
            yield row
            continue
        item = items.setdefault(row.metadata.get("item_id") or row.where, [])
        if item and row.text != item[0].text:
            raise ValueError(
                f"{path}, {row.where}: item_id {row.metadata['item_id']!r} has another text than on "
                f"{item[0].where}; give one item_id one text"
            )
        item.append(row)
    for name, item in items.items():
        categories = list(dict.fromkeys(row.category for row in item if row.category))
        category = categories[0] if len(categories) == 1 else None
        yield _Entry(item[0].where, item[0].text, category, {"item_id": name, "categories": categories})


def _read_folder(folder: Path) -> Iterator[_Entry]:
    for file in sorted(folder.glob("*.txt"), key=_natural):
        yield _Entry(file.name, _decode(file), None, {"item_id": file.stem})


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sort key by which 9.txt stands before 10.txt."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.stem)]


READERS: dict[str, Callable[[Path, str], Iterator[_Entry]]] = {
    ".txt": _read_lines,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}

FORMATS: dict[str, tuple[Callable[[Path, str], Iterator[_Entry]], tuple[str, ...]]] = {
    "txt": (_read_lines, ()),
    "jsonl": (_read_jsonl, ('"prompt"',)),
    "geneval": (_read_jsonl, ('"tag"', '"include"', '"prompt"')),
    "dpg": (_read_csv, ("item_id", "text")),
    "drawbench": (_read_either, ("prompts", "category")),
    "partiprompts": (_read_tsv, ("prompt", "category", "challenge")),
}
"""Name of a format -> its reader, and what its first line has to hold."""
