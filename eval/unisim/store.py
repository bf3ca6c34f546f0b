"""Embeddings on disk, by the content of what was embedded: encoded once, whichever run and data set asks.

A file begins with one line, `unisim embeddings 1 D` (D numbers a vector), padded to 64 bytes; then there is a
record of each item: the SHA-256 of its content, and its vector as D float32, little-endian. Records are only
ever appended, a batch at a time and flushed, so a run that is killed loses at most the batch it was about to
write: half a record at the end is cut off when the file is opened again, and a record whose vector is not of
length 1, as of blocks that never reached the disk, is not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

HEADER = 64
MAGIC = b"unisim embeddings 1 "
#: How far a vector's length may be from 1.
SLACK = 1e-2


def text_key(text: str) -> str:
    """Key of a text, in hex; never that of a picture."""
    return hashlib.sha256(b"text:" + text.encode("utf-8", "surrogatepass")).hexdigest()


class VectorStore:
    """Vectors of length 1 by key (a SHA-256 in hex); a context manager that closes its file.

    One process at a time has the file open. Dimensions are known once there is a vector.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, or begin one.

        Raises:
            ValueError: it is not such a file, or another process has it open.
            OSError: it cannot be opened.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = _open_locked(path)
        try:
            self._read(self._stream.read())
        except ValueError:
            self._stream.close()
            raise

    def _read(self, data: bytes) -> None:
        self._at: dict[bytes, int] = {}
        self._pieces: list[np.ndarray] = []
        self._rows = 0
        self.size: int | None = None
        end = 0
        if len(data) >= HEADER or (data and not MAGIC.startswith(data[: len(MAGIC)])):
            words = data[:HEADER].split()
            if not data.startswith(MAGIC) or not words[3].isdigit() or int(words[3]) < 1:
                raise ValueError(f"{self.path}: is no file of embeddings; give another out, or remove it")
            self._begin(int(words[3]))
            assert self.size is not None
            whole = (len(data) - HEADER) // self._record.itemsize
            end = HEADER + whole * self._record.itemsize
            self._take(np.frombuffer(data, dtype=self._record, count=whole, offset=HEADER))
        self._stream.truncate(end)  # half a header, or half a record
        self._stream.seek(end)

    def _begin(self, size: int) -> None:
        self.size = size
        self._record = np.dtype([("key", "V32"), ("vector", "<f4", (size,))])

    def _take(self, records: np.ndarray) -> None:
        good = np.abs(np.linalg.norm(records["vector"], axis=1) - 1) < SLACK  # False where it is NaN
        for offset, (key, usable) in enumerate(zip(records["key"], good, strict=True)):
            if usable:
                self._at[key.tobytes()] = self._rows + offset
        self._pieces.append(records["vector"])
        self._rows += len(records)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._at

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """Vectors of keys [n, D], float32; a row of NaN for a key that is not there."""
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate(self._pieces)] if self._pieces else []
        found = np.full((len(keys), self.size or 1), np.nan, dtype=np.float32)
        for row, key in enumerate(keys):
            at = self._at.get(bytes.fromhex(key))
            if at is not None:
                found[row] = self._pieces[0][at]
        return found

    def add(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """Append vectors [n, D]; when this returns they survive the end of this process.

        Raises:
            ValueError: they have another number of dimensions than those that are there, or a vector is not
                of length 1.
        """
        if not len(keys):
            return
        if self.size is None:
            self._begin(vectors.shape[1])
            self._stream.write((MAGIC + b"%d" % vectors.shape[1]).ljust(HEADER - 1) + b"\n")
        if vectors.shape != (len(keys), self.size):
            raise ValueError(
                f"{self.path}: holds vectors of {self.size} numbers, and {len(keys)} come as "
                f"{vectors.shape}; they are of another model: remove the file"
            )
        records = np.zeros(len(keys), dtype=self._record)
        records["key"] = [np.void(bytes.fromhex(key)) for key in keys]
        records["vector"] = vectors
        lengths = np.linalg.norm(records["vector"], axis=1)
        if not (np.abs(lengths - 1) < SLACK).all():
            raise ValueError(f"a vector's length is {lengths[np.abs(lengths - 1).argmax()]}; it must be 1")
        self._stream.write(records.tobytes())
        self._stream.flush()
        self._take(records)

    def close(self) -> None:
        """Put the file on the disk and let others open it; one without a vector does not stay."""
        if self._stream.closed:
            return
        self._stream.flush()
        os.fsync(self._stream.fileno())
        if self._stream.seek(0, os.SEEK_END) == 0:
            self.path.unlink(missing_ok=True)
        self._stream.close()

    def __enter__(self) -> VectorStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_locked(path: Path) -> IO[bytes]:
    stream = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise ValueError(f"{path}: another run is writing it; wait for that, or give another out") from None
    except OSError:
        pass  # a file system without locks
    return stream
