"""Kills a training run with SIGKILL again and again, and compares its end with that of an undisturbed one.

    python -m benchmarks.kill_resume --kills 20 [--seed N] [--json FILE]

A tiny FLUX is trained on the CPU. Every second kill comes at a random moment; the others in the middle of
writing a checkpoint, an exported LoRA or the record: just before a random one of the calls by which files get
to the disk and into their place. After each kill the same command goes on, and in the end weights, their
average, the optimizer, the exported LoRA and every line of the record have to be equal to the bit. Each
attempt is a process of its own, forked from this one so that it need not load the libraries again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Calls at which a file is flushed, put in its place or removed.
CALLS = (("os", "fsync"), ("os", "rename"), ("os", "replace"), ("os", "unlink"), ("os", "rmdir"))


@dataclass
class Tally:
    """Attributes:
    kills: Processes killed.
    while_writing: Those of them that were killed at a call that writes.
    leftovers: Those that left something half written behind.
    lost: Iterations that had to be made again.
    differences: What is not equal to the undisturbed run; empty if all is well.
    """

    kills: int = 0
    while_writing: int = 0
    leftovers: int = 0
    lost: int = 0
    differences: list[str] = field(default_factory=list)


def run_killed(arguments: Sequence[str], run: Path, kills: int, seconds: float, seed: int) -> Tally:
    """Start the command until it ends by itself, killing the first `kills` attempts.

    Args:
        arguments: Of the command; the run should checkpoint often.
        run: Its run directory.
        kills: How many attempts are killed.
        seconds: Kills at a random moment come within so long after an attempt has begun.
        seed: Of the moments.

    Raises:
        RuntimeError: An attempt has ended by itself, and not well.
    """
    tally, dice = Tally(), random.Random(seed)
    while True:
        strike: Callable[[], object] | None = None
        if tally.kills < kills:
            at_call = tally.kills % 2 == 1
            strike = kill_at_call(dice.randrange(1, 60)) if at_call else _kill_after(dice.uniform(0, seconds))
        code = _attempt(arguments, strike)
        if code == -signal.SIGKILL and strike is not None:
            tally.kills += 1
            tally.while_writing += at_call
            tally.leftovers += any(run.rglob(".*.tmp")) or any(run.rglob(".*.old"))
            tally.lost += _recorded(run) - _saved(run)
        elif code == 0 and strike is not None:  # it was done before the moment came
            shutil.rmtree(run)
        elif code == 0:
            return tally
        else:
            raise RuntimeError(f"an attempt ended with code {code}")


def differences(ours: Path, theirs: Path) -> list[str]:
    """What of two finished runs is not equal to the bit."""
    found = []
    names = {path.relative_to(run) for run in (ours, theirs) for path in run.rglob("*") if path.is_file()}
    for name in sorted(names):
        contents = [run / name for run in (ours, theirs)]
        if not all(path.is_file() for path in contents):
            found.append(f"{name} is there in only one of them")
            continue
        read = {".jsonl": _timeless, ".safetensors": Path.read_bytes, ".png": Path.read_bytes}.get(
            name.suffix
        )
        if read is not None and read(contents[0]) != read(contents[1]):
            found.append(f"{name} differs")
    return found


def _attempt(arguments: Sequence[str], strike: Callable[[], object] | None) -> int:
    """Exit code of one process that runs the command; negative for a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            if strike is not None:
                os.dup2(silence, 2)
                strike()
            from flow_grpo.train import main

            code = main(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_after(seconds: float) -> Callable[[], object]:
    return lambda: threading.Timer(seconds, _die).start()


def kill_at_call(number: int) -> Callable[[], object]:
    """Count the calls by which files are written, and die before the number-th."""

    def arm() -> None:
        left = [number]

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    _die()
                return original(*args, **options)

            return call

        for module, name in CALLS:
            owner = sys.modules[module]
            setattr(owner, name, counted(getattr(owner, name)))

    return arm


def _recorded(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def _saved(run: Path) -> int:
    from flow_grpo import checkpoint

    newest = checkpoint.latest(run / "checkpoints")
    return int(newest.name.removeprefix("step-")) if newest else 0


def _timeless(path: Path) -> list[dict[str, Any]]:
    """Lines of a record without the times in it."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: v for key, v in row.items() if not key.startswith(("seconds", "mfu"))} for row in rows]


def tiny_run(folder: Path, iterations: int) -> list[str]:
    """Make a tiny FLUX and prompts in `folder`; returns the command's arguments but run_dir."""
    from tests.tiny import tiny_flux, tiny_prompts

    texts = ("a red apple", "a blue boat", "a green cat", "the sky", "grass and a house")
    values: dict[str, Any] = {
        "iterations": iterations,
        "model": json.dumps(
            {
                "path": str(tiny_flux(folder / "flux", contrast=2.0)),
                **{"dtype": "float32", "height": 32, "width": 32, "max_sequence_length": 32},
                "lora": {"rank": 4, "alpha": 8},
            }
        ),
        "prompts.train": tiny_prompts(folder / "prompts.txt", texts),
        "prompts.validation": tiny_prompts(folder / "held_out.txt", ("a red boat", "a blue cat")),
        **{"prompts.per_iteration": 2, "prompts.group_size": 4},
        **{"sampler.num_steps": 4, "sampler.chunk": 4},
        "sampler.window": json.dumps({"kind": "random", "size": 2}),
        "reward.weights": "{colourfulness: 1.0}",
        "reward.scorers": "[{name: pixels}]",
        **{"optimizer.updates_per_rollout": 2, "optimizer.schedule": "cosine"},
        **{"validation.every": 3, "validation.num_steps": 2},
        **{"checkpoint.every": 1, "checkpoint.keep": 1, "log.samples_every": 2},
    }
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def measure(kills: int, iterations: int, seed: int, folder: Path) -> Tally:
    """Train undisturbed and killed, and compare."""
    arguments = tiny_run(folder, iterations)
    straight, killed = folder / "straight", folder / "killed"
    start = time.perf_counter()
    code = _attempt([*arguments, "--run_dir", str(straight)], None)
    if code != 0:
        raise RuntimeError(f"the undisturbed run ended with code {code}")
    seconds = time.perf_counter() - start
    tally = run_killed([*arguments, "--run_dir", str(killed)], killed, kills, 0.7 * seconds, seed)
    tally.differences = differences(straight, killed)
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="benchmarks.kill_resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    import flow_grpo.launch  # noqa: F401  before the forks, so that each need not

    with tempfile.TemporaryDirectory() as folder:
        tally = measure(options.kills, options.iterations, options.seed, Path(folder))
    print("| kills | while writing | left something half written | iterations made again | differences |")
    print("| --- " * 5 + "|")
    print(
        f"| {tally.kills} | {tally.while_writing} | {tally.leftovers} | {tally.lost} "
        f"| {'; '.join(tally.differences) or 'none, to the bit'} |"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(tally), indent=1) + "\n", encoding="utf-8")
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main())
