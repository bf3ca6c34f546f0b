"""The reward server under load, on this machine's loopback only, bounded in count and time.

    python -m benchmarks.server_load throughput  # a scorer that costs nothing: rate, latency, /health
    python -m benchmarks.server_load pocket      # pocket UniPercept, behind the server and in process
    python -m benchmarks.server_load soak        # ten minutes, workers killed, malformed bodies mixed in
    python -m benchmarks.server_load all --json benchmarks/results/server_load.json

Prints a markdown table; `--json FILE` keeps everything that was measured. Exits with 1 where an answer was
wrong, a status was not allowed or the server's memory grew; rates are printed beside their aims and judged by
the reader, who knows what else this machine was doing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks import server_pocket, server_soak, server_throughput
from benchmarks.score_throughput import _processor, _without_folder

PARTS: dict[str, Any] = {"throughput": server_throughput, "pocket": server_pocket, "soak": server_soak}
VERSIONS = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "h11",
    "httpx",
    "numpy",
    "pillow",
    "torch",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(dest="part", required=True)
    for name, modules in [*((name, [part]) for name, part in PARTS.items()), ("all", list(PARTS.values()))]:
        command = commands.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--json", type=Path, help="file to write the whole result to")
        for module in modules:
            module.arguments(command)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for, and on what machine."""
    chosen = list(PARTS) if options.part == "all" else [options.part]
    psutil.cpu_percent()
    idle = 100 - psutil.cpu_percent(1.0)
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.server_load", *map(_without_folder, sys.argv[1:])]),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "idle_before_percent": round(idle)},
        "versions": {name: _version(name) for name in VERSIONS},
        **{name: PARTS[name].measure(options) for name in chosen},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(result: dict[str, Any]) -> str:
    """The result in markdown."""
    lines = ["| | measured | aim |", "| --- | --- | --- |"]
    for name, part in PARTS.items():
        if name in result:
            lines += ["| " + " | ".join(row) + " |" for row in part.rows(result[name])]
    return "\n".join(lines)


def failures(result: dict[str, Any]) -> list[str]:
    """What must never be, whatever else the machine was doing."""
    judge: Callable[[dict[str, Any]], list[str]] | None
    found = []
    for name, part in PARTS.items():
        if name in result and (judge := getattr(part, "failures", None)):
            found += judge(result[name])
    return found


def main() -> int:
    """Measure and print."""
    options = parse()
    result = measure(options)
    print(table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for failure in (bad := failures(result)):
        print(f"server_load: {failure}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
