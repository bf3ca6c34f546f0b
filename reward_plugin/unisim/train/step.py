"""One optimizer step of all processes, and the accuracy of a validation.

A step adds up the losses of a batch of every task. Losses, and so gradients, are sums over questions, or sums
over the same count: what the processes make of their shares adds up to what one would make of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reward_plugin.unisim.train.config import Task, TrainConfig
from reward_plugin.unisim.train.encoder import Encoder
from reward_plugin.unisim.train.feed import Part
from reward_plugin.unisim.train.loss import hinge, leads, reduced, right
from reward_plugin.unisim.train.schedule import parameter_groups

#: What is counted of each task: its loss, right answers, questions that count.
COUNTS = 3


@dataclass(frozen=True)
class Outcome:
    """What a step found, over all processes.

    Attributes:
        loss: Task -> its loss before the step.
        accuracy: Task -> share of right answers; NaN where no picture could be opened.
        missing: Questions of which a picture could not be opened.
        grad_norm: Of the gradient before clipping.
        stop: Whether a process was asked to end.
    """

    loss: dict[Task, float]
    accuracy: dict[Task, float]
    missing: int
    grad_norm: float
    stop: bool


class Stepper:
    """AdamW over what trains of an encoder.

    Args:
        encoder: The model.
        table: Text embeddings [V, D].
        config: The run's configuration.
        processes: That share a step out; the gradients are added up over them once per step, in one piece.
    """

    def __init__(self, encoder: Encoder, table: torch.Tensor, config: TrainConfig, processes: int) -> None:
        self.encoder, self.table, self.config, self._processes = encoder, table, config, processes
        given = config.optimizer
        self.optimizer = torch.optim.AdamW(
            parameter_groups(encoder.trainable, given.weight_decay),
            lr=given.lr,
            betas=(given.beta1, given.beta2),
            eps=given.eps,
        )

    def step(self, batches: Iterable[Mapping[Task, Part]], lr: float, *, stop: bool = False) -> Outcome:
        """Take one.

        Args:
            batches: This process's micro-batches.
            lr: Learning rate.
            stop: Whether this process was asked to end.

        Raises:
            FloatingPointError: loss or gradient is not finite; the weights are as before.
        """
        config = self.config
        tasks = tuple(config.data.train.by_task())
        counts = torch.zeros(len(tasks), COUNTS, device=self.encoder.device)
        self.encoder.model.train()
        for parts in batches:
            total: Any = 0.0
            for task, found in answers(self.encoder, self.table, parts).items():
                valid = parts[task].valid.to(counts.device, non_blocking=True)
                losses = hinge(found.lead, found.labels, config.loss.margin)
                loss = reduced(losses, valid, config.data.batch, config.loss.reduction)
                total = total + loss
                correct = (right(found.lead, found.labels) & valid).sum()
                counts[tasks.index(task)] += torch.stack([loss.detach(), correct, valid.sum()])
            total.backward()
        norm, stop = self._reduce(counts, stop)
        rows = dict(zip(tasks, counts.tolist(), strict=True))
        if not math.isfinite(norm + sum(row[0] for row in rows.values())):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"the loss {_listed(rows)} or its gradient's norm {norm:g} is not finite"
            )
        if config.optimizer.grad_clip is not None and norm > config.optimizer.grad_clip:
            torch._foreach_mul_(self._gradients(), config.optimizer.grad_clip / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Outcome(
            loss={task: row[0] for task, row in rows.items()},
            accuracy={task: row[1] / row[2] if row[2] else math.nan for task, row in rows.items()},
            missing=round(len(tasks) * config.data.batch - sum(row[2] for row in rows.values())),
            grad_norm=norm,
            stop=stop,
        )

    def _gradients(self) -> list[torch.Tensor]:
        return [value.grad for value in self.encoder.trainable.values() if value.grad is not None]

    @torch.no_grad()
    def _reduce(self, counts: torch.Tensor, stop: bool) -> tuple[float, bool]:
        """Add up over processes, in place; the gradient's norm, and whether any process is to stop."""
        gradients = self._gradients()
        flag = counts.new_full((1,), float(stop))
        if self._processes > 1:
            pieces = [*gradients, counts, flag]
            flat = torch.cat([piece.flatten() for piece in pieces])
            torch.distributed.all_reduce(flat)
            for piece, summed in zip(pieces, flat.split([piece.numel() for piece in pieces]), strict=True):
                piece.copy_(summed.view_as(piece))
        norm = torch.nn.utils.get_total_norm(gradients)
        return float(norm), bool(flag)


@dataclass(frozen=True)
class Answers:
    """By how much first choices lead, [n], and labels [n], both on the model's device."""

    lead: torch.Tensor
    labels: torch.Tensor


def answers(encoder: Encoder, table: torch.Tensor, parts: Mapping[Task, Part]) -> dict[Task, Answers]:
    """What an encoder says to a micro-batch."""
    return {
        task: Answers(leads(task, images, texts), parts[task].labels.to(encoder.device, non_blocking=True))
        for task, (images, texts) in encoder.embed(parts, table).items()
    }


@torch.no_grad()
def count_right(
    encoder: Encoder, table: torch.Tensor, batches: Iterable[Mapping[Task, Part]]
) -> tuple[int, int, list[str]]:
    """Right answers and questions that count, of this process's share of a data set; why others do not."""
    encoder.model.eval()
    correct, count = 0, 0
    reasons: list[str] = []
    for parts in batches:
        for task, found in answers(encoder, table, parts).items():
            valid = parts[task].valid
            correct += int((right(found.lead, found.labels).cpu() & valid).sum())
            count += int(valid.sum())
            reasons += parts[task].errors
    return correct, count, reasons


def added_up(values: Sequence[float], device: torch.device, processes: int) -> list[float]:
    """Numbers, over all processes."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    if processes > 1:
        torch.distributed.all_reduce(total)
    return total.tolist()


def _listed(rows: Mapping[Task, Sequence[float]]) -> str:
    return ", ".join(f"{task} {row[0]:g}" for task, row in rows.items())
