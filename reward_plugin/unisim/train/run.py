"""The parts of one run, the loop over them, and how they are saved and restored."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_plugin.errors import ConfigError
from reward_plugin.unisim.train import state
from reward_plugin.unisim.train.config import Task, TrainConfig
from reward_plugin.unisim.train.encoder import Encoder
from reward_plugin.unisim.train.feed import Opener, Part, Plan, opened
from reward_plugin.unisim.train.questions import (
    Question,
    Source,
    chunks,
    drawn,
    fingerprint,
    flattened,
    seed_of,
    share,
    texts_of,
)
from reward_plugin.unisim.train.record import Record
from reward_plugin.unisim.train.schedule import learning_rate
from reward_plugin.unisim.train.signals import Requests, StopRequested
from reward_plugin.unisim.train.step import Outcome, Stepper, added_up, count_right

if TYPE_CHECKING:
    from accelerate import Accelerator

Sources = Mapping[Task, Sequence[Source]]


@dataclass
class Run:
    """Everything that trains, and what a checkpoint of it belongs to.

    Attributes:
        config: The run's configuration.
        encoder: The model.
        stepper: Its optimizer.
        questions: Task -> questions to train on.
        held_out: Task -> data sets of the validation.
        rows: Text -> its row in the table of embeddings.
        opener: Opens pictures.
        pool: With these threads.
        rank, processes: Which process this is, of how many.
        done: Completed steps.
    """

    config: TrainConfig
    encoder: Encoder
    stepper: Stepper
    questions: Mapping[Task, Sequence[Question]]
    held_out: Sources
    rows: Mapping[str, int]
    opener: Opener
    pool: ThreadPoolExecutor
    rank: int = 0
    processes: int = 1
    done: int = field(default=0)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return Path(self.config.run_dir) / "checkpoints"

    def plans(self, first: int) -> Iterator[Plan]:
        """This process's micro-batches, from a step on to the last."""
        data, count = self.config.data, self.config.optimizer.micro_batch
        for step in range(first, self.config.steps):
            mine = {
                task: [
                    given[i] for i in self._share(drawn(step, data.batch, len(given), task, self.config.seed))
                ]
                for task, given in self.questions.items()
            }
            sizes = {task: len(given) for task, given in mine.items()}
            for parts in chunks(sizes, count):
                yield {task: mine[task][part] for task, part in parts.items()}

    @property
    def micro_batches(self) -> int:
        """Of a step of one process."""
        size = self.config.data.batch // self.processes
        return len(list(chunks({"iqa": size}, self.config.optimizer.micro_batch)))

    def feed(self, plans: Iterator[Plan], depth: int) -> Generator[dict[Task, Part], None, None]:
        """Open the pictures of micro-batches, `depth` ahead."""
        words = self.rows[self.config.data.quality_text]
        return opened(plans, self.opener, self.rows, words, self.pool, depth)

    def save(self) -> Path:
        """Write a checkpoint, by the first process; the path is the same on all."""
        if self.rank == 0:
            trainable = self.encoder.trainable
            tensors = {
                "trainable": trainable,
                "optimizer": state.optimizer_tensors(self.stepper.optimizer, trainable),
            }
            state.save(self.checkpoints, self.done, tensors, self._identity(), self.config.checkpoint.keep)
        return self.checkpoints / f"step-{self.done:06d}"

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ConfigError: it belongs to another model, seed or questions.
        """
        tensors, stored = state.load(path)
        shapes = {name: tuple(value.shape) for name, value in self.encoder.trainable.items()}
        there = {name: tuple(value.shape) for name, value in tensors["trainable"].items()}
        found = {**self._identity(), "model.lora, model.train_projection": shapes}
        for key, value in {**stored, "model.lora, model.train_projection": there}.items():
            if key in found and found[key] != value:
                raise ConfigError(
                    f"--resume {path}: {key} is not what this run began with; use that, or another run_dir."
                )
        with torch.no_grad():
            for name, parameter in self.encoder.trainable.items():
                parameter.copy_(tensors["trainable"][name])
        state.load_optimizer(self.stepper.optimizer, self.encoder.trainable, tensors["optimizer"])
        self.done = stored["step"]

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "model.path (weights)": self.encoder.fingerprint,
            "data.train (questions)": fingerprint(self.questions),
            "data.batch": self.config.data.batch,
        }

    def _share(self, items: Sequence[int]) -> Sequence[int]:
        return share(items, self.rank, self.processes)


def prepare(
    config: TrainConfig,
    train: Sources,
    held_out: Sources,
    device: torch.device,
    pool: ThreadPoolExecutor,
    *,
    rank: int = 0,
    processes: int = 1,
) -> Run:
    """Load the model, encode all texts, and build what trains, at step 0."""
    encoder = Encoder(config.model, config.seed, device)
    questions, others = flattened(train), flattened(held_out)
    texts = list(dict.fromkeys([config.data.quality_text, *texts_of(questions), *texts_of(others)]))
    table = encoder.texts(texts)
    stepper = Stepper(encoder, table, config, processes)
    opener = Opener(encoder.processor, next(iter(questions.values()))[0].images[0])
    rows = {text: row for row, text in enumerate(texts)}
    return Run(config, encoder, stepper, questions, held_out, rows, opener, pool, rank, processes)


def train(run: Run, record: Record, requests: Requests) -> None:
    """Take all steps that are left.

    Raises:
        StopRequested: on all processes: one was asked to end, and a checkpoint was written.
        FloatingPointError: the loss is not finite; the last checkpoint is from before.
    """
    config = run.config
    depth = config.data.prefetch * run.micro_batches
    if run.done == 0:
        validate(run, record)
    with closing(run.feed(run.plans(run.done), depth)) as feed:
        while run.done < config.steps:
            row, outcome = train_step(run, feed, record, stop=requests.name is not None)
            record.step(row)
            if run.done % config.validation.every == 0 or run.done == config.steps:
                validate(run, record)
            if run.done % config.checkpoint.every == 0 or run.done == config.steps:
                run.save()
            if outcome.stop and run.done < config.steps:
                raise StopRequested(
                    f"{requests.name or 'a signal to another process'}\nStopped after step {run.done}; the "
                    f"state is in {run.save()}. Start the same command again with --resume auto."
                )


def train_step(
    run: Run, feed: Iterator[dict[Task, Part]], record: Record, *, stop: bool = False
) -> tuple[dict[str, Any], Outcome]:
    """One step, and its line of metrics."""
    start = time.perf_counter()
    batches = [next(feed) for _ in range(run.micro_batches)]
    waited = time.perf_counter() - start
    errors = tuple(error for parts in batches for part in parts.values() for error in part.errors)
    # Dropout follows from the step, so that a run that goes on has what it would have had.
    torch.manual_seed(seed_of(run.config.seed, "dropout", run.done, run.rank))
    lr = learning_rate(run.done, run.config.steps, run.config.optimizer)
    outcome = run.stepper.step(batches, lr, stop=stop)
    run.done += 1
    record.unreadable(run.done, errors)
    seconds = time.perf_counter() - start
    row = {
        "step": run.done,
        "loss": sum(outcome.loss.values()),
        **{f"loss/{task}": value for task, value in outcome.loss.items()},
        **{f"accuracy/{task}": value for task, value in outcome.accuracy.items()},
        "missing": outcome.missing,
        "lr": lr,
        "grad_norm": outcome.grad_norm,
        "seconds": round(seconds, 4),
        "seconds/pictures": round(waited, 4),
    }
    return row, outcome


def validate(run: Run, record: Record) -> dict[str, Any]:
    """Accuracy on the held-out questions: by data set, their mean by task, and the mean over tasks."""
    if not run.held_out:
        return {}
    row: dict[str, Any] = {"step": run.done}
    missing = 0.0
    for task, sources in run.held_out.items():
        shares = []
        for source in sources:
            mine = source.questions[run.rank :: run.processes]
            size = run.config.validation.batch
            plans = ({task: mine[start : start + size]} for start in range(0, len(mine), size))
            found = count_right(
                run.encoder, run.stepper.table, run.feed(iter(plans), run.config.data.prefetch)
            )
            correct, count = added_up(found[:2], run.encoder.device, run.processes)
            record.unreadable(run.done, tuple(found[2]))
            shares.append(correct / count if count else float("nan"))
            missing += len(source.questions) - count
            row[f"{task}/{source.name}"] = shares[-1]
        row[task] = sum(shares) / len(shares)
    row["mean"] = sum(row[task] for task in run.held_out) / len(run.held_out)
    row["missing"] = round(missing)
    record.validation(row)
    return row


def accelerated(accelerator: Accelerator) -> dict[str, int]:
    """Which process this is, of how many, as `prepare` takes it."""
    return {"rank": accelerator.process_index, "processes": accelerator.num_processes}
