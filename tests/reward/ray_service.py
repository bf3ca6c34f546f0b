"""A Ray cluster of this machine with an engine on it, for the tests of one module."""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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

T = TypeVar("T")
CHECKPOINT = Path(__file__).resolve().parents[1] / "data/unipercept/checkpoint"
UNIPERCEPT = {"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu", "dtype": "float32"}
SPECS = [{"name": "pixels"}, UNIPERCEPT]
#: Seconds that anything may take: replicas start in 3 s on a quiet machine, in half a minute on a busy one.
PATIENCE = 100.0
#: Lines of each of Ray's logs that a failed test shows.
TAIL = 25


@dataclass
class Service:
    """An engine with two replicas of `pixels`, one of `unipercept` and one of `gated`, and gated's folder.

    Attributes:
        keep: Whether Ray's logs stay when the service ends: a test has failed.
    """

    engine: RayEngine
    folder: Path
    keep: bool = False
    _read: Counter[str] = field(default_factory=Counter)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of something that asks the engine, which has `PATIENCE` seconds for it."""

        async def bounded() -> T:
            return await asyncio.wait_for(work, PATIENCE)

        try:
            return asyncio.run(bounded())
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE:g} s; {self.state()}") from None

    def state(self) -> str:
        """What the engine, the cluster and the machine's processes say of the replicas."""
        engine = self.engine
        return (
            f"{engine.jobs} jobs in the engine, {engine.resent} resent, trouble {engine.trouble()!r}, "
            f"running {engine._running}, "
            f"processes { {info.name: self.replicas(info.name) for info in engine.describe()} }"
        )

    def logs(self) -> str:
        """The ends of Ray's logs; and keep them all."""
        self.keep = True
        parts = [f"all of them: {self.folder}/ray/session_*/logs"]
        for file in sorted(self.folder.glob("ray/session_2*/logs/**/*")):
            if file.is_file() and file.stat().st_size and file.suffix in (".log", ".out", ".err"):
                lines = file.read_text(errors="replace").splitlines()[-TAIL:]
                parts.append("\n".join([f"== {file.name}", *(line[:300] for line in lines)]))
        return "\n".join(parts)

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

    def batches(self, earlier: list[int] | None = None) -> list[int]:
        """The pictures of each batch that `gated` was given since the last call; added to `earlier` ones."""
        batches = [] if earlier is None else earlier
        batches += [int(line) for line in self._new("batches")]
        return batches

    async def has(self, line: str) -> None:
        """Wait until a request came to the replica of `gated`: its id; or left it unscored: "... left"."""
        await happens(lambda: line in self._new("arrived"), f"the replica of gated has {line!r}")

    def _new(self, name: str) -> list[str]:
        file = self.folder / name
        lines = file.read_text().splitlines() if file.exists() else []
        new = lines[self._read[name] :]
        self._read[name] = len(lines)
        return new


def command(process: psutil.Process) -> str:
    """The command line of a process, empty when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; where nobody collects orphans, they stay in the list of processes."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextmanager
def running() -> Iterator[Service]:
    """A service; when it ends, its processes have, and its temporary files are gone."""
    folder = Path(
        tempfile.mkdtemp(prefix="ray", dir="/tmp")
    )  # short: a socket's path has 107 letters at most
    before = set(psutil.Process().children(recursive=True))
    family: set[psutil.Process] = set()
    service: Service | None = None
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
            service = Service(engine, folder)
            try:
                yield service
            finally:
                family = set(psutil.Process().children(recursive=True)) - before
                engine.close()
        finally:
            end = time.monotonic() + 60
            while (left := [process for process in family if lives(process)]) and time.monotonic() < end:
                time.sleep(0.1)
            for process in left:
                process.kill()
            if not (service and service.keep):
                shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"these outlived the engine: {[command(process) for process in left]}"


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something that other processes bring about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.1)


async def happens(condition: Callable[[], Any], what: str) -> None:
    """The same beside an event loop's other work."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.01)


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


def job(*images: bytes | memoryview, scorers: tuple[str, ...] = ("pixels",), name: str = "test") -> ScoreJob:
    """A request."""
    return ScoreJob(images, None, scorers, id=name)


def same(table: ScoreTable, expected: ScoreTable) -> bool:
    """Whether two tables are equal to the bit, errors included."""
    return (
        table.dimensions == expected.dimensions
        and table.errors == expected.errors
        and table.values.tobytes() == expected.values.tobytes()
    )
