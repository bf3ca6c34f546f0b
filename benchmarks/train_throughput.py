"""Where training's time goes, and how fast it is.

    python -m benchmarks.train_throughput [--iterations 4] [--json FILE]
    python -m benchmarks.train_throughput --full [--tiny --device cpu] [--json FILE]

The first trains the pocket models with the reward server in a process of its own, and tells which share of
an iteration is spent inside the transformer's and the VAE's forward and backward passes (at least 85 % is the
aim) and which waiting for scores (below 5 %). The clocks are put around the modules here; the trainer is as
it is. The second is `benchmarks.train_full_size`: FLUX.1-dev's shape with random weights on a GPU.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Clocks:
    """Seconds inside functions, by name; only the outermost counts, so that nothing is counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = False

    def around(self, owner: Any, method: str, name: str) -> None:
        """Put a clock around a method, from now on."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **options: Any) -> Any:
            if self._inside:
                return original(*args, **options)
            self._inside, start = True, time.perf_counter()
            try:
                return original(*args, **options)
            finally:
                self._inside = False
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, method, timed)

    def take(self) -> dict[str, float]:
        """What has been counted since the last time."""
        taken, self.seconds = self.seconds, {}
        return taken


@contextmanager
def reward_server(folder: Path) -> Iterator[str]:
    """The pocket reward server on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "reward_plugin", "serve", "--config", "configs/reward/pocket.yaml"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def measure_pocket(iterations: int, arguments: Sequence[str]) -> list[dict[str, float]]:
    """Train and return, for each iteration after the first, its row of metrics and the clocks' seconds.

    Args:
        iterations: How many to measure; one more is made to warm up.
        arguments: Of the trainer, on top of what this sets.

    Raises:
        RuntimeError: The trainer has ended with an error.
    """
    from accelerate import Accelerator
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    from flow_grpo.log import RunLog
    from flow_grpo.train import main as train

    clocks, rows = Clocks(), []
    clocks.around(FluxTransformer2DModel, "forward", "transformer forward")
    clocks.around(AutoencoderKL, "decode", "VAE")
    clocks.around(Accelerator, "backward", "backward")
    record, validation = RunLog.iteration, RunLog.validation

    def noted(log: RunLog, row: Any) -> None:
        rows.append({**row, **{f"inside/{name}": value for name, value in clocks.take().items()}})
        record(log, row)

    def forgotten(log: RunLog, row: Any) -> None:
        clocks.take()  # validation is outside of what an iteration's seconds count
        validation(log, row)

    patched: Any = RunLog
    patched.iteration, patched.validation = noted, forgotten
    try:
        if train([*arguments, "--iterations", str(iterations + 1)]) != 0:
            raise RuntimeError("the trainer ended with an error; see above")
    finally:
        patched.iteration, patched.validation = record, validation
    return rows[1:]


def shares(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians over iterations: seconds, and shares of them by phase and inside the models."""
    parts = sorted({key for row in rows for key in row if key.startswith(("inside/", "seconds/"))})
    found = {key: statistics.median(row.get(key, 0.0) / row["seconds"] for row in rows) for key in parts}
    inside = [sum(v for k, v in row.items() if k.startswith("inside/")) / row["seconds"] for row in rows]
    return {
        "seconds": statistics.median(row["seconds"] for row in rows),
        **found,
        "inside": statistics.median(inside),
    }


def report(found: dict[str, float]) -> str:
    """Markdown."""
    lines = ["| part of an iteration | share |", "| --- | ---: |"]
    for key, value in found.items():
        kind, _, name = key.partition("/")
        if name:
            lines.append(
                f"| {'phase' if kind == 'seconds' else kind}: {name.replace('_', ' ')} | {value:.1%} |"
            )
    return "\n".join(
        [
            *lines,
            f"| **inside transformer and VAE** (aim: 85 %) | **{found['inside']:.1%}** |",
            f"| **waiting for scores** (aim: below 5 %) | **{found['seconds/score_wait']:.1%}** |",
            "",
            f"{found['seconds']:.2f} s an iteration (median).",
        ]
    )


def pocket(options: argparse.Namespace) -> dict[str, Any]:
    """Measure with the pocket models and print."""
    quiet = {"validation.every": 10**6, "checkpoint.every": 10**6, "log.samples_every": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = ["--config", str(ROOT / "configs" / "pocket.yaml"), "--run_dir", str(folder / "run")]
        arguments += [part for key, value in quiet.items() for part in (f"--{key}", str(value))]
        with reward_server(folder) as url:
            rows = measure_pocket(options.iterations, [*arguments, "--reward.url", url, *options.more])
    found = shares(rows)
    print(report(found))
    return {"shares": found, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_throughput", description=__doc__)
    parser.add_argument("--iterations", type=int, default=4, help="measured, after one to warm up")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--full", action="store_true", help="FLUX.1-dev's shape with random weights")
    parser.add_argument("--tiny", action="store_true", help="with --full: a tiny shape, to try the benchmark")
    parser.add_argument("--device", default="cuda", help="with --full")
    options, more = parser.parse_known_args(arguments)
    options.more = more
    if options.full:
        from benchmarks.train_full_size import full

        result = full(options.device, options.tiny, options.iterations)
    else:
        result = pocket(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
