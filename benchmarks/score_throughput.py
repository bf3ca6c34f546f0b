"""Images per second of ours and of the published package, on the same checkpoint and images, taking turns.

    python -m benchmarks.score_throughput --peer PEER/bin/python [--checkpoint DIR] [--images FILE ...]

PEER is a virtual environment with the published package (see benchmarks/README.md). Each side lives in a
process of its own, loaded and warm, and waits while the other one works; turns alternate, so whatever else
the machine does falls on both. Files are decoded within the measured time on both sides. Prints a markdown
table and, with --json, writes everything that was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "tests" / "data" / "unipercept"


class Side:
    """A worker process."""

    def __init__(self, python: str, side: str, options: argparse.Namespace) -> None:
        """Start it and wait until its model is loaded."""
        command = [python, str(ROOT / "benchmarks" / "score_worker.py"), side, str(options.checkpoint)]
        command += [str(options.threads), options.dtype, options.device, *map(str, options.images)]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(options.threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if side == "ours":
            environment["PYTHONPATH"] = str(ROOT)
        self.name = side
        self.count = len(options.images)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.info = self._answer()

    def run(self, passes: int) -> tuple[float, list[list[float]]]:
        """Images per second of so many passes over the images, and the scores."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{passes}\n")
        self.process.stdin.flush()
        answer = self._answer()
        return passes * self.count / answer["seconds"], answer["scores"]

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name}: the worker ended; what it printed above says why")
        return json.loads(line)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns; see the module."""
    sides = [Side(sys.executable, "ours", options), Side(options.peer, "published", options)]
    try:
        passes = [max(1, round(options.seconds * side.run(1)[0] / side.count)) for side in sides]
        turns = [[side.run(n) for side, n in zip(sides, passes, strict=True)] for _ in range(options.rounds)]
    finally:
        for side in sides:
            side.close()
    pairs = list(zip(*(scores for _, scores in turns[-1]), strict=True))
    ratios = [ours / published for (ours, _), (published, _) in turns]
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.score_throughput", *map(_without_folder, sys.argv[1:])]),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": options.threads},
        "versions": {side.name: side.info["versions"] for side in sides},
        "device": options.device,
        "dtype": options.dtype,
        "images": len(options.images),
        "images_per_second": {
            side.name: [round(turn[i][0], 3) for turn in turns] for i, side in enumerate(sides)
        },
        "ratio": {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "largest_difference": max(abs(a - b) for rows in pairs for a, b in zip(*rows, strict=True)),
    }


def _without_folder(argument: str) -> str:
    """Where something lies on this machine is nobody else's concern."""
    return Path(argument).name if argument.startswith("/") else argument


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def table(result: dict[str, Any]) -> str:
    """The result in markdown."""
    rates = {name: median(values) for name, values in result["images_per_second"].items()}
    ratio = result["ratio"]
    return "\n".join(
        [
            "| | images/s (median of turns) |",
            "| --- | --- |",
            f"| ours | {rates['ours']:.2f} |",
            f"| unipercept-reward | {rates['published']:.2f} |",
            f"| ratio | {ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f}) |",
            f"| largest difference of a score | {result['largest_difference']:.2g} |",
        ]
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--peer", required=True, help="python that has unipercept-reward installed")
    parser.add_argument("--checkpoint", type=Path, default=REFERENCE / "checkpoint")
    parser.add_argument("--images", type=Path, nargs="+", default=sorted((REFERENCE / "images").iterdir()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a turn takes")
    parser.add_argument("--json", type=Path, help="file to write the whole result to")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = parse()
    result = measure(options)
    print(table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
