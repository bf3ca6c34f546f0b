"""From a scored rollout to optimizer steps.

Gradients of micro-batches are weighted by how many examples they hold, so their size, and the number of
processes, change nothing but rounding.

Shapes:  E examples of this process, see `flow_grpo.examples`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from flow_grpo.algorithms import ALGORITHMS
from flow_grpo.config import TrainConfig
from flow_grpo.ema import EMA
from flow_grpo.examples import Examples, Noised
from flow_grpo.objective import objective
from flow_grpo.pace import gather
from flow_grpo.policy.base import Condition, Policy
from flow_grpo.stepper import Stepper

if TYPE_CHECKING:
    from accelerate import Accelerator

Checked = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Of each micro-batch of an update: prompt rows, sigmas, and which losses are finite, bool, all [E]."""


class Updater:
    """Turns examples into optimizer steps.

    Args:
        policy: The model.
        stepper: Over `policy.trainable`.
        ema: Moved once per optimizer step.
        config: The run's configuration.
        accelerator: For metrics of several processes.

    Attributes:
        steps: Optimizer steps taken since the run began; the learning rate depends on it alone.
        old: The policy that samples, where the objective tells it from the trained one (nft); else None.
    """

    def __init__(
        self,
        policy: Policy,
        stepper: Stepper,
        ema: EMA,
        config: TrainConfig,
        accelerator: Accelerator,
    ) -> None:
        self.policy, self.stepper, self.ema = policy, stepper, ema
        self.config, self.accelerator = config, accelerator
        self.steps = 0
        follows = not ALGORITHMS[config.algorithm].Config.needs_trajectory
        self.old = EMA(policy.trainable, 0.0) if follows else None

    def sampling_weights(self) -> AbstractContextManager[None]:
        """Within it the policy has the weights that training pictures are sampled with."""
        return nullcontext() if self.old is None else self.old.applied(self.policy.trainable)

    def run(self, examples: Examples, condition: Condition, kl_factor: float = 1.0) -> dict[str, float]:
        """All updates of one iteration.

        Args:
            examples: This process's examples.
            condition: Of their prompts.
            kl_factor: What `regularizer.kl_weight` is multiplied by.

        Returns:
            Means over the examples that were evaluated, of all processes.

        Raises:
            FloatingPointError: On all processes: a loss or the gradient is not finite; the weights are those
                before that update.
        """
        settings = self.config.optimizer
        if self.config.advantage.selects:
            examples = examples.take((examples.share >= 0).nonzero().flatten())
        examples = self._with_constant_velocities(examples, condition)
        sums: dict[str, torch.Tensor] = {}
        norms = []
        lr = self._lr(self.steps)
        for number in range(settings.updates_per_rollout):
            part = examples.take((examples.share == number).nonzero().flatten())
            checked = self._accumulate(part, condition, sums, number == 0, kl_factor)
            norms.append(self._step(number, checked))
        gathered = self.accelerator.reduce(dict(sorted(sums.items())), reduction="sum")
        metrics = {name: float(total / count) for name, (total, count) in gathered.items()}
        if self.old is not None:
            metrics["old_decay"] = self.config.nft.old_decay(self.steps)
            self.old.update(self.policy.trainable, metrics["old_decay"])
        return {**metrics, "grad_norm": sum(norms) / len(norms), "lr": lr}

    @torch.no_grad()
    def _with_constant_velocities(self, examples: Examples, condition: Condition) -> Examples:
        """Evaluate what no update changes, once per rollout: the base model, only if a term of the loss needs
        it, and the policy that sampled.
        """
        if self.config.regularizer.needs_reference:
            with self.policy.reference():
                examples = replace(examples, reference=self._velocities(examples, condition))
        if isinstance(examples, Noised):
            with self.sampling_weights():
                examples = replace(examples, old_velocity=self._velocities(examples, condition))
        return examples

    def _velocities(self, examples: Examples, condition: Condition) -> torch.Tensor:
        """[E, S, C], by micro-batches."""
        return torch.cat(
            [
                self.policy.velocity(piece.x, piece.sigma, condition.take(piece.row))
                for piece in examples.chunks(self.config.optimizer.pairs)
            ]
        )

    def _accumulate(
        self,
        part: Examples,
        condition: Condition,
        sums: dict[str, torch.Tensor],
        on_policy: bool,
        kl_factor: float,
    ) -> Checked:
        """Add the gradient of one update's loss, by micro-batches, and its metrics as [sum, count].

        on_policy: the weights are still those that sampled.
        """
        # Each process holds len(part) examples and the gradient is averaged over processes: this makes it
        # the mean.
        count = len(part)
        if self.old is None and not self.config.regularizer.needs_reference:
            part = self._live(part)
        pieces = list(part.chunks(self.config.optimizer.pairs))
        checked: Checked = []
        for piece in pieces:
            velocity = self.policy.velocity(piece.x, piece.sigma, condition.take(piece.row))
            values, metrics = objective(velocity, piece, self.config, on_policy, kl_factor)
            self.stepper.backward(values.sum() / count, last=piece is pieces[-1])
            checked.append((piece.row, piece.sigma, values.detach().isfinite()))
            for name, value in {"loss": values, **metrics}.items():
                pair = torch.stack([value.detach().sum(), value.new_tensor(len(piece))])
                sums[name] = sums[name] + pair if name in sums else pair
        return checked

    def _live(self, part: Examples) -> Examples:
        """The examples with an advantage: on transitions, without a regulariser, others have no gradient.

        Every process keeps as many, some without advantage if need be and at least one: all have to take part
        in the reduction of gradients and, with a split base, in every forward pass.
        """
        dead = part.advantage == 0
        count = max(1, *gather([int((~dead).sum())]))
        return part.take(dead.byte().argsort(stable=True)[:count])

    def _step(self, number: int, checked: Checked) -> float:
        """The optimizer step of update `number`; returns the gradient's norm before clipping."""
        # All processes stop or none: one that went on alone would wait for the others forever.
        size, right = self.stepper.reduce(torch.stack([finite.all() for _, _, finite in checked]).all())
        if not right:
            places = [place for place in gather([self._where(checked)]) if place is not None]
            raise FloatingPointError(
                f"{places[0] if places else f'the norm of the gradient is {size}'}, in iteration "
                f"{self.steps // self.config.optimizer.updates_per_rollout + 1}, update {number + 1} of "
                f"{self.config.optimizer.updates_per_rollout} (optimizer step {self.steps + 1}); the weights "
                f"are those before it. Lower optimizer.lr or sampler.noise_level, or use model.dtype float32 "
                f"to find the cause."
            )
        self.stepper.step(self._lr(self.steps))
        self.ema.update(self.policy.trainable)
        self.steps += 1
        return size

    def _where(self, checked: Checked) -> str | None:
        """Which examples of this process have no finite loss; None if all have one."""
        for place, (row, sigma, finite) in enumerate(checked, start=1):
            if not finite.all():
                rows, sigmas = (sorted(set(values[~finite].tolist())) for values in (row, sigma))
                return (
                    f"the loss is not finite for prompt rows {rows} of process "
                    f"{self.accelerator.process_index} at sigma "
                    f"{', '.join(f'{value:.4g}' for value in sigmas)}, micro-batch {place} of {len(checked)}"
                )
        return None

    def _lr(self, steps: int) -> float:
        settings = self.config.optimizer
        total = self.config.iterations * settings.updates_per_rollout
        return learning_rate(
            settings.lr, steps, settings.warmup, total if settings.schedule == "cosine" else None
        )


def learning_rate(peak: float, steps: int, warmup: int, total: int | None) -> float:
    """Rate after `steps` optimizer steps: linear warm-up, then constant, or cosine to 0 at `total`."""
    rate = peak * min(1.0, (steps + 1) / warmup) if warmup else peak
    if total is not None and total > warmup:
        progress = min(1.0, max(0, steps - warmup) / (total - warmup))
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    return rate
