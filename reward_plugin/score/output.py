"""Files of rows that are written as scores come, and taken up again after a run was killed.

A JSONL or CSV file grows by whole records, flushed after every batch; a record that was cut off is removed
when the run goes on. A Parquet file cannot grow, so its rows collect in a JSONL journal beside it, and the
file is written from both when the run ends or is interrupted; after a kill, the journal is still there.

Every row says what scored it, and a file never mixes scorers.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Protocol

from reward_plugin.errors import ConfigError, RewardError
from reward_plugin.score.formats import (
    check_folder,
    csv_bytes,
    jsonl_bytes,
    need_pyarrow,
    read_csv,
    read_parquet,
    write_atomically,
    write_parquet,
)
from reward_plugin.score.rows import Row


class RowFile(Protocol):
    """A file of rows that is open for going on; `rows` are those that it began with."""

    rows: list[Row]

    def start(self, columns: Sequence[str]) -> None:
        """Get ready to append rows with these columns."""

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; when this returns they survive the end of this process."""

    def keep(self, rows: Sequence[Row]) -> None:
        """Reduce what the file holds to some of its rows, atomically."""

    def close(self) -> None:
        """Complete the file."""


def open_rows(path: Path, scored_by: str) -> RowFile:
    """A new file, or one to go on with; its format follows its suffix.

    Raises:
        ConfigError: an unknown suffix, a file that this command did not write, one that other scorers wrote,
        or one that another run is writing.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"out {path}: its suffix must be one of {', '.join(FORMATS)}")
    check_folder("out", path)
    file = FORMATS[path.suffix.lower()](path)
    for row in file.rows:
        if row.get("scored_by") != scored_by:
            file.close()
            raise ConfigError(
                f"out {path}: holds scores by {row.get('scored_by')!r}, and this run would add some by "
                f"{scored_by!r}; give another --out, or move that file away"
            )
    return file


class LineFile:
    """What JSONL and CSV have in common: bytes of whole records, locked while this process has it open."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and read what is in it."""
        self.path = path
        self.rows: list[Row] = []
        self._stream = _open_locked(path)
        try:
            self._end = self._parse(self._stream.read())  # where the last whole record ends
        except ConfigError:
            self._stream.close()
            raise

    def _parse(self, data: bytes) -> int:
        raise NotImplementedError

    def _encode(self, rows: Sequence[Row]) -> bytes:
        raise NotImplementedError

    def _head(self) -> bytes:
        return b""

    def start(self, columns: Sequence[str]) -> None:
        """Remove a record that was cut off."""
        self._stream.truncate(self._end)
        self._stream.seek(self._end)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows and hand them to the operating system."""
        try:
            self._stream.write(self._encode(rows))
            self._stream.flush()
        except OSError as error:  # a full disk
            raise RewardError(
                f"out {self.path}: {error.strerror}; what is there can be gone on with"
            ) from None

    def keep(self, rows: Sequence[Row]) -> None:
        """Rewrite the file."""
        data = self._head() + self._encode(rows)
        write_atomically(self.path, data)
        self._stream.close()
        self._stream, self._end, self.rows = _open_locked(self.path), len(data), list(rows)

    def close(self) -> None:
        """Put it on the disk and let others write; a file without a row does not stay."""
        if self._stream.closed:
            return
        self._stream.flush()
        os.fsync(self._stream.fileno())
        if self._stream.seek(0, os.SEEK_END) == 0:
            self.path.unlink(missing_ok=True)
        self._stream.close()


class JsonlFile(LineFile):
    """One JSON object a line."""

    def _parse(self, data: bytes) -> int:
        *lines, cut_off = data.split(b"\n")
        if _json(cut_off) is not None:  # whole, so it was not this command that left out the newline
            lines.append(cut_off)
        for number, line in enumerate(lines, start=1):
            row = _json(line)
            if not isinstance(row, dict) or not {"image", "scored_by"} <= row.keys():
                raise ConfigError(f"out {self.path}:{number}: not a row of this command; give another --out")
            self.rows.append(row)
        if cut_off and not cut_off.startswith(b'{"image": '):
            raise ConfigError(f"out {self.path}: ends in something else than a row; give another --out")
        return len(data) - len(cut_off)

    def _encode(self, rows: Iterable[Row]) -> bytes:
        return jsonl_bytes(rows)


class CsvFile(LineFile):
    """Comma-separated values under a header."""

    def _parse(self, data: bytes) -> int:
        self._columns, self.rows, end = read_csv(data)
        if data and not {"image", "scored_by"} <= set(self._columns):
            raise ConfigError(f"out {self.path}: not a table of this command; give another --out")
        return end

    def start(self, columns: Sequence[str]) -> None:
        """Write the header of a new file; an old one must have the same."""
        super().start(columns)
        if not self._columns:
            self._columns = list(columns)
            self._stream.write(self._head())
        elif self._columns != list(columns):
            raise ConfigError(
                f"out {self.path}: has the columns {', '.join(self._columns)}, and this run would write "
                f"{', '.join(columns)}; give another --out, or a .jsonl file, whose rows may differ"
            )

    def _head(self) -> bytes:
        return csv_bytes(self._columns, [])

    def _encode(self, rows: Sequence[Row]) -> bytes:
        return csv_bytes(self._columns, rows, header=False)


class ParquetFile:
    """A table that is written from a journal; needs pyarrow."""

    def __init__(self, path: Path) -> None:
        """Read the table, and what a killed run left in the journal."""
        need_pyarrow()
        self.path = path
        stored = read_parquet(path) if path.is_file() else []
        if stored and not {"image", "scored_by"} <= stored[0].keys():
            raise ConfigError(f"out {path}: not a table of this command; give another --out")
        self._journal = JsonlFile(path.with_name(path.name + ".journal.jsonl"))
        left = self._journal.rows
        if _names(stored[len(stored) - len(left) :]) == _names(left):
            left = []  # killed after the table was written and before the journal was removed
        self.rows = stored + left
        self._all = list(self.rows)
        self._changed = bool(left)
        self._columns: Sequence[str] = ()

    def start(self, columns: Sequence[str]) -> None:
        """Note the columns for the end."""
        self._columns = columns
        self._journal.start(columns)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows to the journal."""
        self._journal.append(rows)
        self._all += rows
        self._changed = True

    def keep(self, rows: Sequence[Row]) -> None:
        """Write the table, then empty the journal."""
        self.rows, self._all, self._changed = list(rows), list(rows), False
        write_parquet(self.path, rows)
        self._journal.keep([])

    def close(self) -> None:
        """Write the table, then remove the journal."""
        if self._changed:
            write_parquet(self.path, self._all, self._columns)
            self._changed = False
        self._journal.keep([])
        self._journal.close()


FORMATS: dict[str, type[JsonlFile] | type[CsvFile] | type[ParquetFile]] = {
    ".jsonl": JsonlFile,
    ".csv": CsvFile,
    ".parquet": ParquetFile,
}


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _names(rows: Iterable[Row]) -> list[tuple[str, str | None]]:
    return [(row["image"], row.get("prompt")) for row in rows]


def _open_locked(path: Path) -> IO[bytes]:
    try:
        stream = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"out {path}: cannot be opened for writing: {error.strerror}") from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise ConfigError(f"out {path}: another run is writing it; wait for that, or give another") from None
    except OSError:
        pass  # a file system without locks
    return stream
