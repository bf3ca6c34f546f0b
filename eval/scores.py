"""Scores of a comparison's pictures, kept as they come: one that was stopped goes on where it was.

Every process appends to a file of its own below `scores/`, a row for each complete score, and reads those
of all. A row says what it is of by content: the picture's SHA-256, the prompt, and what scored it. So it does
not matter which model made the picture, or how many processes there are; another picture, another prompt or
another scorer is scored anew. A score that is missing is not kept: the next run asks for it again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self, TypeAlias

import numpy as np

from eval.generate import Item
from flow_grpo.config import RewardConfig
from reward_plugin.client import RewardClient
from reward_plugin.score.identity import scored_by
from reward_plugin.types import Rewards, ScoreTable

BATCH = 16
#: Of what a score is: the picture's digest and its prompt.
_Key: TypeAlias = tuple[str, str]


def scorer_identity(config: RewardConfig, rewards: Rewards) -> str | None:
    """Names what decides the scores, see `reward_plugin.score.identity`; None where a server does not say."""
    if isinstance(rewards, RewardClient):
        told = rewards.description.get("scored_by")
        return str(told) if told else None
    return scored_by(config.scorers or [])


class Kept:
    """The scores that are there, and a file for those to come; a context manager.

    Args:
        folder: Of the files of all processes.
        rank: Of this process, which names its file.
        identity: What scores, see `scorer_identity`; with None nothing is read or kept.
        dimensions: Of the scores.
    """

    def __init__(self, folder: Path, rank: int, identity: str | None, dimensions: Sequence[str]) -> None:
        self._identity, self._dimensions = identity, tuple(dimensions)
        self._found: dict[_Key, list[float]] = {}
        self._path = folder / f"{rank}.jsonl"
        self._file: IO[bytes] | None = None
        if identity is not None:
            for path in sorted(folder.glob("*.jsonl")):
                self._found.update(self._read(path))

    def get(self, key: _Key) -> list[float] | None:
        """The complete scores of a picture, or none."""
        return self._found.get(key)

    def add(self, keys: Sequence[_Key], table: ScoreTable) -> None:
        """Append the complete scores of a batch; when this returns they survive the end of this process."""
        if self._identity is None:
            return
        if self._file is None:
            self._file = _opened(self._path)
        for (picture, prompt), values, error in zip(keys, table.values, table.errors, strict=True):
            if error is None:
                scores = dict(zip(table.dimensions, map(float, values), strict=True))
                row = {"picture": picture, "prompt": prompt, "scored_by": self._identity, "scores": scores}
                self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _read(self, path: Path) -> Iterator[tuple[_Key, list[float]]]:
        """What a file has by the same scorers in the same dimensions; a line cut off is passed over."""
        for line in path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
                key = str(row["picture"]), str(row["prompt"])
                values = [float(row["scores"][name]) for name in self._dimensions]
            except (ValueError, KeyError, TypeError):
                continue
            if row.get("scored_by") == self._identity and all(map(math.isfinite, values)):
                yield key, values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


def score(
    rewards: Rewards,
    items: Sequence[Item],
    files: Sequence[Path],
    label: str,
    kept: Kept,
    *,
    quiet: bool = False,
) -> ScoreTable:
    """Scores of the pictures [N, D], in the order of the items: those that are kept, and the rest asked for.

    A picture that is not there is a missing score.
    """
    from tqdm import tqdm

    values = np.full((len(items), len(rewards.dimensions)), np.nan, dtype=np.float32)
    errors: list[str | None] = [f"{file} is missing" for file in files]
    pending: list[int] = []
    keys = [_key(item, file) for item, file in zip(items, files, strict=True)]
    for row, key in enumerate(keys):
        found = None if key is None else kept.get(key)
        if found is not None:
            values[row], errors[row] = found, None
        elif key is not None:
            pending.append(row)
    already = len(items) - len(pending)
    with tqdm(total=len(items), initial=already, desc=f"score {label}", unit="image", disable=quiet) as bar:
        for start in range(0, len(pending), BATCH):
            rows = pending[start : start + BATCH]
            # Encoded bytes, not paths: the scorers may be on another machine.
            images = [files[row].read_bytes() for row in rows]
            table = rewards.score(images, [items[row].prompt for row in rows])
            kept.add([key for row in rows if (key := keys[row]) is not None], table)
            values[rows] = table.values
            for row, error in zip(rows, table.errors, strict=True):
                errors[row] = error
            bar.update(len(rows))
    return ScoreTable(tuple(rewards.dimensions), values, tuple(errors))


def _key(item: Item, file: Path) -> _Key | None:
    """None where there is no picture."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), item.prompt
    except FileNotFoundError:
        return None


def _opened(path: Path) -> IO[bytes]:
    """Open for appending, without the line that a killed process has cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a+b")
    stream.seek(0)
    stream.truncate(stream.read().rfind(b"\n") + 1)
    return stream
