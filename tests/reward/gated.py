"""A scorer in a process of its own that a test holds back, watches and kills, by files in a folder."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_plugin.images import to_rgb_each
from reward_plugin.queueing import ScoreJob
from reward_plugin.ray_replica import Answer, Replica
from reward_plugin.scorers import SCORERS
from reward_plugin.types import ImageLike, ScoreTable

#: A picture of this width kills the process that scores it.
DEADLY_WIDTH = 13


def die() -> None:
    """As the kernel ends a process for which no memory is left."""
    os.kill(os.getpid(), signal.SIGKILL)


def note(file: Path, text: str) -> None:
    """Add a line, in one piece: whoever reads meanwhile sees all of it or nothing."""
    with file.open("ab", buffering=0) as stream:
        stream.write(f"{text}\n".encode())


class Gated:
    """Red of the left edge, letters of the prompt. In `folder`, `closed` stops loading, `held` scoring."""

    name = "gated"
    dimensions = ("red", "letters")
    ranges: Mapping[str, tuple[float, float]] = {"red": (0, 255), "letters": (0, 1000)}

    def __init__(self, folder: str, dies: bool = False) -> None:
        self.folder = Path(folder)
        while (self.folder / "closed").exists():
            time.sleep(0.05)
        if dies:
            die()

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        good, errors = to_rgb_each(images)
        arrays = [np.asarray(image) for image in good]
        note(self.folder / "batches", str(len(images)))
        if any(array.shape[1] == DEADLY_WIDTH for array in arrays):
            die()
        while (self.folder / "held").exists():
            time.sleep(0.02)
        letters = [
            len(text) for text, error in zip(prompts or [""] * len(images), errors, strict=True) if not error
        ]
        values = [(array[:, 0, 0].mean(), count) for array, count in zip(arrays, letters, strict=True)]
        return ScoreTable.computed(self.dimensions, values).scatter(errors)


class GatedReplica(Replica):
    """A replica that knows this scorer, too, and writes down what has come to it."""

    def __init__(self, spec: Mapping[str, Any], *rest: Any) -> None:
        SCORERS["gated"] = Gated
        super().__init__(spec, *rest)
        self._arrived = Path(spec["folder"]) / "arrived" if "folder" in spec else None

    async def score(self, job: ScoreJob) -> tuple[Answer, float]:
        """As a replica does."""
        asked = asyncio.ensure_future(super().score(job))
        await asyncio.sleep(0)  # now it waits in the replica's queue
        if self._arrived is not None:
            note(self._arrived, job.id)
        try:
            return await asked
        except asyncio.CancelledError:
            if self._arrived is not None:
                note(self._arrived, f"{job.id} left")
            raise
