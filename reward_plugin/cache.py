"""Scores that are known already, or on their way: the same picture is scored once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

#: The scores of one picture, float32 [D], and why some of them are missing.
Row: TypeAlias = tuple[np.ndarray, str | None]


class ScoreCache:
    """Scores by the digest of what was scored, the least recently used going first. Thread-safe.

    A failed score is never kept: the next one to ask has it tried again.
    """

    def __init__(self, max_items: int) -> None:
        """Keep the scores of at most `max_items` pictures; about 300 bytes each."""
        self.max_items = max_items
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._pending: dict[bytes, Future[Row | None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def claim(self, key: bytes) -> Row | Future[Row | None] | None:
        """The scores; or the future of whoever gets them just now; or None: get them, and `settle`.

        The future gives None when its owner failed: then claim again.
        """
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
                return row
            pending = self._pending.get(key)
            if pending is None:
                self._pending[key] = Future()
            return pending

    def settle(self, key: bytes, row: Row) -> None:
        """Scores of a claimed picture; kept if all of them are there."""
        with self._lock:
            future = self._pending.pop(key)
            if row[1] is None:
                self._rows[key] = row
                if len(self._rows) > self.max_items:
                    self._rows.popitem(last=False)
        future.set_result(row)

    def give_back(self, keys: Iterable[bytes]) -> None:
        """Those of the claimed pictures that were not settled: somebody else may try."""
        for key in keys:
            with self._lock:
                future = self._pending.pop(key, None)
            if future is not None:
                future.set_result(None)
