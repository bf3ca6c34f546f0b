"""Embeddings that were computed before, the least recently used going first."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np


class Recent:
    """At most so many vectors by the digest of what they are of. Not for several threads at once."""

    def __init__(self, most: int) -> None:
        """Keep the `most` recent ones; 0 keeps none."""
        self.most = most
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, key: bytes) -> bool:
        return key in self._vectors

    def get(self, key: bytes) -> np.ndarray | None:
        """The vector, which now counts as used; or None."""
        if key not in self._vectors:
            return None
        self._vectors.move_to_end(key)
        return self._vectors[key]

    def keep(self, key: bytes, vector: np.ndarray) -> None:
        """Keep a copy of a vector, so that the array it is a row of can go."""
        self._vectors[key] = vector.copy()
        while len(self._vectors) > self.most:
            self._vectors.popitem(last=False)
