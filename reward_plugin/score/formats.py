"""Rows as JSONL, CSV and Parquet, both ways; no state, no locks."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reward_plugin.errors import ConfigError
from reward_plugin.score.rows import Row


def jsonl_bytes(rows: Iterable[Row]) -> bytes:
    """One JSON object a line."""
    return b"".join(json_line(row).encode() + b"\n" for row in rows)


def json_line(row: Row) -> str:
    """A row as JSON without its newline; a file name that is not UTF-8 is escaped."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


def csv_bytes(columns: Sequence[str], rows: Iterable[Row], *, header: bool = True) -> bytes:
    """A table of comma-separated values; lists and objects are JSON inside their field, missing is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([_field(row.get(name)) for name in columns] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_csv(data: bytes) -> tuple[list[str], list[Row], int]:
    """Columns, rows, and how many bytes they take: a record that was cut off at the end does not count."""
    records = list(_whole_records(data))
    if not records:
        return [], [], 0
    text = b"".join(records).decode("utf-8", "surrogateescape")
    table = csv.reader(io.StringIO(text, newline=""))
    columns = next(table)
    rows = [{name: value or None for name, value in zip(columns, fields, strict=False)} for fields in table]
    return columns, rows, sum(map(len, records))


def write_parquet(path: Path, rows: Sequence[Row], columns: Sequence[str] = ()) -> None:
    """Write a table atomically; a column whose values are of several types is written as JSON text."""
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    table = pyarrow.table({name: _column(pyarrow, name, [row.get(name) for row in rows]) for name in names})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, row_group_size=65536)
    write_atomically(path, buffer.getvalue())


def read_parquet(path: Path) -> list[Row]:
    """The rows of a table; nulls come back as None."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a Parquet file ({error}); give another file") from None


def need_pyarrow() -> None:
    """ConfigError where Parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            "a .parquet file needs pyarrow: pip install 'flow-grpo-perceptual[parquet]'; or use .jsonl"
        ) from None


def check_folder(option: str, path: Path) -> None:
    """ConfigError where a file cannot be created beside `path`, which the user gave as `option`."""
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: the folder {path.parent} may not be written; give another")


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: the old file or the new one is there, never half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A whole file of rows at once: `.txt` has their paths only, absolute, one a line."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        paths = (os.path.abspath(row["image"]) + "\n" for row in rows)
        write_atomically(path, "".join(paths).encode("utf-8", "surrogateescape"))
    elif suffix == ".jsonl":
        write_atomically(path, jsonl_bytes(rows))
    elif suffix == ".csv":
        write_atomically(path, csv_bytes(columns, rows))
    else:
        write_parquet(path, rows, columns)


def _whole_records(data: bytes) -> Iterator[bytes]:
    """Records of a CSV file that end; a newline inside quotes does not end one."""
    record = b""
    for line in data.splitlines(keepends=True):
        record += line
        if record.count(b'"') % 2 == 0 and record.endswith(b"\n"):
            yield record
            record = b""


def _field(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _column(pyarrow: Any, name: str, values: list[Any]) -> Any:
    kind = pyarrow.string() if name in ("image", "prompt", "error", "scored_by") else None
    if kind is None and all(value is None for value in values):
        kind = pyarrow.float64()
    try:
        return pyarrow.array(values, kind)
    except (pyarrow.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        texts = [None if value is None else _field(value) for value in values]
        return pyarrow.array([text and text.encode("utf-8", "replace").decode() for text in texts])
