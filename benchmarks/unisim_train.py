"""What UniSim's training costs on top of the bare forward and backward pass of the same batches.

    python -m benchmarks.unisim_train [--steps 20] [--rounds 5] [--json FILE]

Bare: the pixels of a step are on the device already; embeddings, hinge, backward pass, nothing else.
Training: the loop as it runs, from files on disk: open, resize and crop, move, embed, backward pass, add up,
optimizer step, record. Both take the same questions with the same dropout, in turns within one process.

The ratio of a round is that of its two halves on the critical path: on the CPU, with OMP_NUM_THREADS=1, the
processor time of the thread that trains and what it waits for pictures; on a GPU the wall clock. `all
threads` counts what the threads that open pictures do as well, which goes on meanwhile where a core is free.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reward_plugin.unisim.train.config import Task, TrainConfig
from reward_plugin.unisim.train.feed import Part
from reward_plugin.unisim.train.loss import hinge, reduced
from reward_plugin.unisim.train.questions import read_all, seed_of
from reward_plugin.unisim.train.record import Record, versions
from reward_plugin.unisim.train.run import Run, prepare, train_step
from reward_plugin.unisim.train.step import answers


@dataclass(frozen=True)
class Seconds:
    """Of a step.

    Attributes:
        path: On the critical path.
        threads: Processor time of all threads.
        waiting: Wall clock that the loop waits for pictures; part of `path`.
    """

    path: float
    threads: float
    waiting: float


@dataclass(frozen=True)
class Round:
    """The two halves of a round."""

    bare: Seconds
    training: Seconds

    def ratio(self, of: str) -> float:
        """Training over bare."""
        return float(getattr(self.training, of) / getattr(self.bare, of))


def bare(run: Run, steps: Sequence[tuple[int, Sequence[dict[Task, Part]]]]) -> None:
    """Forward and backward passes of given steps."""
    config, encoder = run.config, run.encoder
    encoder.model.train()
    for step, batches in steps:
        torch.manual_seed(seed_of(config.seed, "dropout", step, run.rank))
        for parts in batches:
            losses = [
                reduced(
                    hinge(found.lead, found.labels, config.loss.margin),
                    parts[task].valid.to(encoder.device),
                    config.data.batch,
                    config.loss.reduction,
                )
                for task, found in answers(encoder, run.stepper.table, parts).items()
            ]
            torch.stack(losses).sum().backward()
        for parameter in encoder.trainable.values():
            parameter.grad = None


def measure(run: Run, record: Record, steps: int, rounds: int) -> list[Round]:
    """Alternate; in every other round training comes first."""
    count, made = run.micro_batches, []
    for number in range(rounds + 1):
        feed = run.feed(run.plans(run.done), 0)
        held = [(run.done + step, [_on(run, next(feed)) for _ in range(count)]) for step in range(steps)]
        halves: dict[str, Seconds] = {}
        for half in ("bare", "training") if number % 2 else ("training", "bare"):
            waiting, start = 0.0, _clocks(run)
            if half == "bare":
                bare(run, held)
            else:
                feed = run.feed(run.plans(run.done), run.config.data.prefetch * count)
                for _ in range(steps):
                    row, _ = train_step(run, feed, record)
                    record.step(row)
                    waiting += row["seconds/pictures"]
                feed.close()
            path, threads = (end - begun for begun, end in zip(start, _clocks(run), strict=True))
            path += 0.0 if run.encoder.device.type == "cuda" else waiting  # the wall clock has it already
            halves[half] = Seconds(path / steps, threads / steps, waiting / steps)
        if number:  # the first warms up
            made.append(Round(**halves))
            print(f"round {number}: {made[-1].ratio('path'):.3f}", flush=True)
    return made


def _on(run: Run, parts: dict[Task, Part]) -> dict[Task, Part]:
    """A micro-batch whose pixels are on the device."""
    return {task: replace(part, pixels=part.pixels.to(run.encoder.device)) for task, part in parts.items()}


def _clocks(run: Run) -> tuple[float, float]:
    """Of the critical path, and of all threads."""
    if run.encoder.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
    return time.thread_time(), time.process_time()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/unisim/pocket.yaml"))
    parser.add_argument("--steps", type=int, default=10, help="of each half of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep what was measured")
    args = parser.parse_args()
    from reward_plugin.unisim.train.cli import parse

    config: TrainConfig = parse(["--config", str(args.config), "--run_dir", "unused"]).config
    config = replace(config, steps=10**6)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ThreadPoolExecutor(config.data.workers) as pool, tempfile.TemporaryDirectory() as folder:
        run = prepare(config, read_all(config.data.train), {}, device, pool)
        record = Record(Path(folder), True, 1)
        made = measure(run, record, args.steps, args.rounds)
        record.close()
    print(report(made))
    if args.json:
        found: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.unisim_train", *sys.argv[1:]]),
            "device": str(device),
            "versions": versions(),
            "rounds": [asdict(one) for one in made],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def report(made: Sequence[Round]) -> str:
    """Markdown: medians over the rounds."""
    lines = ["| seconds of a step | bare passes | training | ratio (range) |", "| --- | ---: | ---: | ---: |"]
    for of, title in (("path", "critical path"), ("threads", "processor time, all threads")):
        halves = [
            statistics.median(getattr(getattr(r, half), of) for r in made) for half in ("bare", "training")
        ]
        ratios = [one.ratio(of) for one in made]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        lines.append(f"| {title} | {halves[0]:.3f} | {halves[1]:.3f} | {spread} |")
    waiting = statistics.median(one.training.waiting for one in made)
    return "\n".join([*lines, f"| of it waiting for pictures | | {waiting:.4f} | |"])


if __name__ == "__main__":
    sys.exit(main())
