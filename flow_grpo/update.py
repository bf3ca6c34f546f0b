"""From a scored rollout to optimizer steps.

Every (picture, stochastic step) is one training example; steps are flattened into the batch, because FLUX
takes a timestep for each element. Gradients of micro-batches are weighed by how many examples they hold, so
their size, and the number of processes, change nothing but rounding.

Shapes:  B pictures of this process, W stochastic steps, E = B W examples, S tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from flow_grpo.algorithms import ALGORITHMS
from flow_grpo.algorithms.grpo import Inputs
from flow_grpo.config import TrainConfig, algorithm_config
from flow_grpo.ema import EMA
from flow_grpo.policy.base import Condition, Policy
from flow_grpo.regularize import kl_to_reference, norm_penalty
from flow_grpo.sample import Trajectory
from flow_grpo.sde import KINDS, Kind, step

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Examples:
    """E training examples, the picture's index running slowest.

    Attributes:
        x: float32 [E, S, C], sample before the step.
        x_next: float32 [E, S, C], sample after it.
        sigma: float32 [E].
        sigma_next: float32 [E].
        kind: Transition of all, or int [E], an index into `flow_grpo.sde.KINDS`, where steps differ.
        noise_level: float32 [E], a of the transition.
        row: int [E], the prompt's row in the condition.
        share: int [E], which of the iteration's updates uses the example.
        advantage: float32 [E].
        old_log_prob: float32 [E], under the weights that sampled.
        old_mean: float32 [E, S, C] or None.
        reference: float32 [E, S, C], velocity of the base model, or None where no term needs it.
    """

    x: torch.Tensor
    x_next: torch.Tensor
    sigma: torch.Tensor
    sigma_next: torch.Tensor
    kind: Kind | torch.Tensor
    noise_level: torch.Tensor
    row: torch.Tensor
    share: torch.Tensor
    advantage: torch.Tensor
    old_log_prob: torch.Tensor
    old_mean: torch.Tensor | None = None
    reference: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: torch.Tensor) -> Examples:
        """The examples at `index`."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {
            name: v[index] if isinstance(v, torch.Tensor) else v for name, v in values.items()
        }
        return Examples(**taken)

    def chunks(self, size: int) -> Iterator[Examples]:
        """Consecutive pieces of at most `size`."""
        for index in torch.arange(len(self), device=self.x.device).split(size):
            yield self.take(index)


def build_examples(
    trajectory: Trajectory,
    sigmas: torch.Tensor,
    rows: torch.Tensor,
    share: torch.Tensor,
    advantage: torch.Tensor,
) -> Examples:
    """Flatten a rollout.

    Args:
        trajectory: Of B pictures.
        sigmas: The sampling grid.
        rows: int [B], prompt row of each picture.
        share: int [B], the update that uses each picture.
        advantage: float32 [B].
    """
    W = len(trajectory.steps)
    steps = torch.tensor(trajectory.steps, device=trajectory.x.device)
    levels = torch.tensor(trajectory.noise_levels, device=trajectory.x.device)
    B, kinds = len(trajectory.x), trajectory.kinds
    numbers = torch.tensor([KINDS.index(kind) for kind in kinds], device=trajectory.x.device)
    return Examples(
        x=trajectory.x.flatten(0, 1),
        x_next=trajectory.x_next.flatten(0, 1),
        sigma=sigmas[steps].repeat(B),
        sigma_next=sigmas[steps + 1].repeat(B),
        kind=kinds[0] if len(set(kinds)) == 1 else numbers.repeat(B),
        noise_level=levels.repeat(B),
        row=rows.repeat_interleave(W),
        share=share.repeat_interleave(W),
        advantage=advantage.repeat_interleave(W),
        old_log_prob=trajectory.log_prob.flatten(),
        old_mean=None if trajectory.mean is None else trajectory.mean.flatten(0, 1),
    )


class Updater:
    """Turns examples into optimizer steps.

    Args:
        policy: Its `module` is already wrapped by accelerate.
        optimizer: Over `policy.trainable`.
        ema: Moved once per optimizer step.
        config: The run's configuration.
        accelerator: For gradients of several processes.

    Attributes:
        steps: Optimizer steps taken since the run began; the learning rate depends on it alone.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        config: TrainConfig,
        accelerator: Accelerator,
    ) -> None:
        self.policy, self.optimizer, self.ema = policy, optimizer, ema
        self.config, self.accelerator = config, accelerator
        self.steps = 0

    def run(self, examples: Examples, condition: Condition) -> dict[str, float]:
        """All updates of one iteration.

        Returns:
            Means over the examples that were evaluated, of all processes.

        Raises:
            FloatingPointError: A gradient is not finite; the weights are those before that update.
        """
        settings = self.config.optimizer
        examples = self._with_reference(examples, condition)
        sums: dict[str, torch.Tensor] = {}
        norms = []
        lr = self._lr(self.steps)
        for number in range(settings.updates_per_rollout):
            part = examples.take((examples.share == number).nonzero().flatten())
            self._accumulate(part, condition, sums, on_policy=number == 0)
            norms.append(self._step())
        gathered = self.accelerator.reduce(dict(sorted(sums.items())), reduction="sum")
        metrics = {name: float(total / count) for name, (total, count) in gathered.items()}
        return {**metrics, "grad_norm": sum(norms) / len(norms), "lr": lr}

    @torch.no_grad()
    def _with_reference(self, examples: Examples, condition: Condition) -> Examples:
        """Evaluate the base model once per rollout, only if a term of the loss needs it."""
        if not self.config.regularizer.needs_reference:
            return examples
        with self.policy.reference():
            reference = torch.cat(
                [
                    self.policy.velocity(piece.x, piece.sigma, condition.take(piece.row))
                    for piece in examples.chunks(self.config.optimizer.micro_batch)
                ]
            )
        return Examples(**{**vars(examples), "reference": reference})

    def _accumulate(
        self, part: Examples, condition: Condition, sums: dict[str, torch.Tensor], on_policy: bool
    ) -> None:
        """Add the gradient of one update's loss, by micro-batches, and its metrics as [sum, count]."""
        # Each process holds len(part) examples and accelerate averages over processes: this makes it the
        # mean.
        count = len(part)
        if not self.config.regularizer.needs_reference:
            live = (part.advantage != 0).nonzero().flatten()
            # Without advantage and regulariser an example has no gradient. One is kept, since every process
            # has to take part in the reduction of gradients.
            part = part.take(live if len(live) else torch.arange(1, device=part.x.device))
        pieces = list(part.chunks(self.config.optimizer.micro_batch))
        for piece in pieces:
            last = piece is pieces[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.policy.module):
                values, metrics = self._loss(piece, condition, on_policy)
                self.accelerator.backward(values.sum() / count)
            for name, value in {"loss": values, **metrics}.items():
                pair = torch.stack([value.detach().sum(), value.new_tensor(len(piece))])
                sums[name] = sums[name] + pair if name in sums else pair

    def _loss(
        self, part: Examples, condition: Condition, on_policy: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and metrics, each [E]; on_policy: the weights are still those that sampled."""
        config = self.config
        velocity = self.policy.velocity(part.x, part.sigma, condition.take(part.row))
        arguments: dict[str, Any] = {"kind": part.kind, "x_next": part.x_next}
        now = step(velocity, part.x, part.sigma, part.sigma_next, part.noise_level, **arguments)
        inputs = Inputs(
            log_prob=now.log_prob,
            # While the weights are those that sampled, this very forward gives the old log-probability
            # without the differences of batch shape, which in bf16 are as large as a clip range.
            old_log_prob=now.log_prob.detach() if on_policy else part.old_log_prob,
            advantage=part.advantage,
            mean=now.mean,
            old_mean=now.mean.detach() if on_policy else part.old_mean,
            std=now.std,
            delta=part.sigma - part.sigma_next,
        )
        values, metrics = ALGORITHMS[config.algorithm].loss(inputs, algorithm_config(config))
        if on_policy:
            metrics["rollout_drift"] = (now.log_prob - part.old_log_prob).detach().expm1().abs()
        if part.reference is not None:
            regularizer = config.regularizer
            base = step(part.reference, part.x, part.sigma, part.sigma_next, part.noise_level, **arguments)
            kl = kl_to_reference(now, base.mean, regularizer.kl)
            norm = norm_penalty(velocity, part.reference, regularizer.norm_margin)
            values = values + regularizer.kl_weight * kl + regularizer.norm_weight * norm
            metrics.update(kl=kl, norm_penalty=norm)
        return values, metrics

    def _step(self) -> float:
        """One optimizer step; returns the gradient's norm before clipping."""
        parameters = self.policy.trainable
        norm = float(self.accelerator.clip_grad_norm_(parameters.values(), self.config.optimizer.grad_clip))
        if not norm < float("inf"):
            raise FloatingPointError(
                f"the gradient's norm is {norm} at optimizer step {self.steps + 1}; the weights are kept. "
                f"Lower optimizer.lr or sampler.noise_level, or use model.dtype float32 to find the cause."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(parameters)
        self.steps += 1
        return norm

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
