"""What UniSim's training costs on top of the bare forward and backward pass of the same batches.

    python -m benchmarks.unisim_train [--steps 20] [--rounds 5] [--json FILE]

Bare: the pixels of a step are on the device already; embeddings, hinge, backward pass, nothing else.
Training: the loop as it runs, from files on disk: open, resize and crop, move, embed, backward pass, add up,
optimizer step, record. Both take the same questions with the same dropout, in turns within one process; the
ratio of a round is that of the processor time (the wall clock, on a GPU) of its two halves.

Processor time counts what the threads that open pictures do as well, so on the CPU nothing is hidden by doing
it meanwhile; the time that the loop waits for pictures is told besides.
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
from dataclasses import dataclass, replace
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
class Round:
    """Seconds of one round.

    Attributes:
        bare, training: Of a step.
        waiting: Of a step's wall clock that the loop waits for pictures.
    """

    bare: float
    training: float
    waiting: float

    @property
    def ratio(self) -> float:
        """Training over bare."""
        return self.training / self.bare


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
        halves: dict[str, float] = {}
        waiting = 0.0
        for half in ("bare", "training") if number % 2 else ("training", "bare"):
            start = _now(run)
            if half == "bare":
                bare(run, held)
            else:
                feed = run.feed(run.plans(run.done), run.config.data.prefetch * count)
                for _ in range(steps):
                    row, _ = train_step(run, feed, record)
                    record.step(row)
                    waiting += row["seconds/pictures"]
                feed.close()
            halves[half] = (_now(run) - start) / steps
        if number:  # the first warms up
            made.append(Round(halves["bare"], halves["training"], waiting / steps))
            print(f"round {number}: {made[-1].ratio:.3f}", flush=True)
    return made


def _on(run: Run, parts: dict[Task, Part]) -> dict[Task, Part]:
    """A micro-batch whose pixels are on the device."""
    return {task: replace(part, pixels=part.pixels.to(run.encoder.device)) for task, part in parts.items()}


def _now(run: Run) -> float:
    if run.encoder.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


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
    print(report(made, device))
    if args.json:
        found: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.unisim_train", *sys.argv[1:]]),
            "device": str(device),
            "versions": versions(),
            "rounds": [vars(one) | {"ratio": one.ratio} for one in made],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def report(made: Sequence[Round], device: torch.device) -> str:
    """Markdown."""
    ratios = [one.ratio for one in made]
    clock = "wall clock" if device.type == "cuda" else "processor time"
    bare_s, training = (
        statistics.median(getattr(one, name) for one in made) for name in ("bare", "training")
    )
    return "\n".join(
        [
            f"| a step, {clock} | seconds |",
            "| --- | ---: |",
            f"| bare forward and backward passes | {bare_s:.3f} |",
            f"| training | {training:.3f} |",
            f"| ratio: median (range) of {len(made)} rounds | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}) |",
            f"| waiting for pictures, wall clock | {statistics.median(one.waiting for one in made):.4f} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
