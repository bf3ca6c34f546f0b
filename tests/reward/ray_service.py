"""A Ray cluster of this machine with an engine on it, for the tests of one module."""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from reward_plugin import ray_cluster
from reward_plugin.images import to_npy
from reward_plugin.queueing import Full, ScoreJob
from reward_plugin.ray_engine import RayEngine
from reward_plugin.ray_options import RayOptions
from reward_plugin.types import ScoreTable
from tests.reward.gated import GatedReplica

CHECKPOINT = Path(__file__).resolve().parents[1] / "data/unipercept/checkpoint"
UNIPERCEPT = {"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu", "dtype": "float32"}
SPECS = [{"name": "pixels"}, UNIPERCEPT]
#: Seconds that anything may take: replicas start in 3 s on a quiet machine, and in a minute on a busy one.
PATIENCE = 300.0


@dataclass(frozen=True)
class Service:
    """An engine with two replicas of `pixels`, one of `unipercept` and one of `gated`, and gated's folder."""

    engine: RayEngine
    folder: Path

    def replicas(self, scorer: str) -> set[int]:
        """Process ids of the replicas of a scorer."""
        title = f"ServeReplica:{self.engine.options.name}-{scorer}:"
        family = psutil.Process().children(recursive=True)
        return {process.pid for process in family if title in command(process)}

    @contextmanager
    def gate(self, name: str) -> Iterator[None]:
        """Hold `gated` back: its scoring (held) or its loading (closed)."""
        (self.folder / name).touch()
        try:
            yield
        finally:
            (self.folder / name).unlink()

    def batches(self) -> list[int]:
        """The pictures of each batch that `gated` was given, since the last call."""
        file = self.folder / "batches"
        lines = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return [int(line) for line in lines]


def command(process: psutil.Process) -> str:
    """The command line of a process, empty when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def running() -> Iterator[Service]:
    """A service; when it ends, its processes have, and its temporary files are gone."""
    folder = Path(
        tempfile.mkdtemp(prefix="ray", dir="/tmp")
    )  # short: a socket's path has 107 letters at most
    before = set(psutil.Process().children(recursive=True))
    family: set[psutil.Process] = set()
    options = RayOptions(
        name=f"test-{uuid.uuid4().hex[:8]}",
        num_replicas=2,
        num_cpus=0.1,
        scorers={name: {"num_replicas": 1} for name in ("unipercept", "gated")},
        max_ongoing_requests=4,
        max_queued_requests=4,
        coalesce=8,
        retries=1,
        object_store_bytes=100 * 1024 * 1024,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
        patch.setattr(ray_cluster, "Replica", GatedReplica)
        try:
            engine = RayEngine([*SPECS, {"name": "gated", "folder": str(folder)}], options)
            try:
                yield Service(engine, folder)
            finally:
                family = set(psutil.Process().children(recursive=True)) - before
                engine.close()
        finally:
            left = psutil.wait_procs(family, timeout=60)[1]
            for process in left:
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"these outlived the engine: {[command(process) for process in left]}"


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something that other processes bring about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.1)


async def patiently(engine: RayEngine, work: ScoreJob) -> ScoreTable:
    """As a client does: come back where the queue is full."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return await engine.run(work)
        except Full:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


def picture(seed: int, size: int = 48) -> bytes:
    """Random colours, as a .npy file."""
    return to_npy(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def job(*images: bytes | memoryview, scorers: tuple[str, ...] = ("pixels",)) -> ScoreJob:
    """A request."""
    return ScoreJob(images, None, scorers, id="test")


def same(table: ScoreTable, expected: ScoreTable) -> bool:
    """Whether two tables are equal to the bit, errors included."""
    return (
        table.dimensions == expected.dimensions
        and table.errors == expected.errors
        and table.values.tobytes() == expected.values.tobytes()
    )
