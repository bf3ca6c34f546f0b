"""Carrying out an ablation: each run is trained by `accelerate launch` and evaluated by `eval compare`.

A run's folder holds train/ and eval/ as those two commands write them, their logs, and run.json, which says
what has been done. A run whose run.json says done, under the same configuration, is never touched again;
training that was cut off goes on from its last checkpoint, an evaluation from the pictures it has.

While a run is worked on its folder is locked, by this process and by the one that it started: a second
ablation on the same folder leaves it alone, even where the first was killed and its trainer lives on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.ablate_config import AblateConfig, Run
from eval.results import read
from flow_grpo.files import replacing

RECORD, RECORD_VERSION = "run.json", 1
STAGES = ("begun", "trained", "done")


class RunFailed(ChildProcessError):
    """A run's command failed; the message carries the end of its log."""


class Busy(Exception):
    """Another process works on the run."""


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        stage: One of STAGES; none: nothing of it exists.
        seconds: Time of each finished stage's last attempt: train, evaluate.
    """

    stage: str | None
    seconds: Mapping[str, float]

    @property
    def done(self) -> bool:
        """Whether both training and evaluation are finished."""
        return self.stage == "done"


def state_of(run: Run) -> State:
    """What the run's record says.

    Raises:
        ValueError: The record is of another configuration, or is damaged.
    """
    file = run.folder / RECORD
    if not file.is_file():
        return State(None, {})
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version, identity, stage = record["version"], record["identity"], record["stage"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{file} is damaged; remove the folder {run.folder} to run it anew") from error
    if (version, identity) != (RECORD_VERSION, run.identity):
        raise ValueError(
            f"{run.folder} holds a run of another configuration; remove that folder, or set another `out`"
        )
    return State(stage, record["seconds"])


def write_state(run: Run, state: State) -> None:
    """Note how far the run is."""
    record = {
        "version": RECORD_VERSION,
        "name": run.name,
        "identity": run.identity,
        "stage": state.stage,
        "seconds": {stage: round(seconds, 1) for stage, seconds in state.seconds.items()},
    }
    with replacing(run.folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def commands(run: Run, config: AblateConfig) -> dict[str, list[str]]:
    """What is executed for each stage, after `python`."""
    launch = ["-m", "accelerate.commands.launch", "--config_file", config.accelerate, "-m", "flow_grpo.train"]
    return {
        "train": [*launch, "--config", str(run.folder / "train.yaml"), "--resume", "auto"],
        "evaluate": ["-m", "eval", "compare", "--config", str(run.folder / "evaluate.yaml")],
    }


class Workshop:
    """Executes runs, several at a time.

    Args:
        config: The ablation.
        parallel: Runs at a time.
        url: Address of the shared reward server; none: the runs' own configurations have one, or scorers.
        threads: Compute threads of each; none: its share of the machine's cores.
    """

    def __init__(
        self, config: AblateConfig, parallel: int = 1, url: str | None = None, threads: int | None = None
    ) -> None:
        self.config, self.parallel, self.url = config, parallel, url
        self.threads = threads or max(1, (os.cpu_count() or 1) // parallel)
        self.stopping = threading.Event()

    def work(self, runs: Sequence[Run]) -> Iterator[tuple[Run, BaseException | None]]:
        """Yield each run as it ends, with what went wrong if it failed or is busy elsewhere.

        When the caller is interrupted the commands under way are stopped; what they have written stays.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            futures = {pool.submit(self._run, run): run for run in runs}
            try:
                for future in as_completed(futures):
                    error = future.exception()
                    if error is not None and not isinstance(error, Busy | OSError | ValueError):
                        raise error
                    yield futures[future], error
            finally:
                self.stopping.set()
                for future in futures:
                    future.cancel()

    def _run(self, run: Run) -> None:
        with locked(run.folder) as lock:
            state = state_of(run)  # now that nobody else can change it
            if state.done:
                return
            self._prepare(run)
            for stage, reached in (("train", "trained"), ("evaluate", "done")):
                if STAGES.index(state.stage or "begun") >= STAGES.index(reached):
                    continue
                if stage == "evaluate":
                    self._borrow_base(run)
                began = time.monotonic()
                self._execute(commands(run, self.config)[stage], run.folder / f"{stage}.log", lock)
                state = State(reached, {**state.seconds, stage: time.monotonic() - began})
                write_state(run, state)

    def _prepare(self, run: Run) -> None:
        files = {"train": dict(run.train), "evaluate": dict(run.evaluation)}
        for stage, values in files.items():
            if self.url is not None:
                values["reward"] = {**values["reward"], "url": self.url, "scorers": None}
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            with replacing(run.folder / f"{stage}.yaml") as path:
                path.write_text(text, encoding="utf-8")
        if state_of(run).stage is None:
            write_state(run, State("begun", {}))

    def _borrow_base(self, run: Run) -> None:
        """Link the base model's pictures of a finished run: they are the same for all.

        Their manifest says what they were made with, and `eval compare` makes anew what does not fit.
        """
        own = run.folder / "eval" / "gallery" / "images" / "base"
        if own.exists():
            return
        for other in Path(self.config.out).glob("**/" + RECORD):
            theirs = other.parent / "eval" / "gallery" / "images" / "base"
            if json.loads(other.read_text(encoding="utf-8")).get("stage") == "done" and theirs.is_dir():
                own.parent.mkdir(parents=True, exist_ok=True)
                with replacing(own) as path:
                    shutil.copytree(theirs, path, copy_function=os.link)  # files are replaced, never changed
                return

    def _execute(self, arguments: Sequence[str], log: Path, lock: int) -> None:
        with log.open("ab") as output:
            began = output.tell()  # former attempts stay in the log
            child = subprocess.Popen(
                [sys.executable, *arguments],
                env=child_environment(self.threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
            )
            try:
                while child.poll() is None and not self.stopping.wait(0.2):
                    pass
            finally:
                stop(child)
        if self.stopping.is_set():
            raise RunFailed("interrupted")
        if child.returncode:
            raise RunFailed(
                f"{reason(log, began) or f'exit code {child.returncode}'}; the end of {log}:\n{tail(log)}"
            )


def child_environment(threads: int) -> dict[str, str]:
    """This environment with so many compute threads: accelerate gives a CPU process one unless told."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def stop(child: subprocess.Popen[bytes], grace: float = 30.0) -> None:
    """End a child and all that it started, its process group: SIGTERM, after `grace` seconds SIGKILL."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(child.pid, number)
            deadline = time.monotonic() + seconds
            # Not only until the child ends: it is the launcher, and the trainer may be writing a checkpoint.
            while time.monotonic() < deadline:
                child.poll()
                os.killpg(child.pid, 0)
                time.sleep(0.05)
    child.wait()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; yields its descriptor, which a child may inherit.

    Raises:
        Busy: Someone else has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another process works in {folder}") from error
        yield descriptor
    finally:
        os.close(descriptor)


def reason(log: Path, began: int) -> str | None:
    """What the trainer or the comparison said was wrong; behind it accelerate adds a traceback of its own.

    Args:
        log: Output of all attempts.
        began: Byte at which the last one begins.
    """
    lines = log.read_bytes()[began:].decode(errors="replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.startswith(("flow_grpo.train: error:", "eval: "))]
    return said[-1] if said else None


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log; of a progress bar only its last state."""
    text = log.read_bytes().decode(errors="replace").rstrip().replace("\r\n", "\n")
    return "\n".join("    " + line.rsplit("\r", 1)[-1] for line in text.split("\n")[-lines:])


def results_of(run: Run) -> dict[str, Any]:
    """The record that `eval compare` wrote for a finished run."""
    return read(run.folder / "eval" / "results.json")
