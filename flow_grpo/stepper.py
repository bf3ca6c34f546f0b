"""From the losses of micro-batches to one optimizer step of all processes.

Gradients are averaged over processes once per update, in one piece, and not by a wrapper around the model:
they are those of the adapters, small beside the work that made them, and the model is then called in the same
way whether the base is whole or split, on one process or many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch

from flow_grpo.checkpoint import load_optimizer, optimizer_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stepper(Protocol):
    """An optimizer over the adapters of all processes. An update is `backward` for each micro-batch,
    `reduce`, and, if nothing speaks against it, `step`.
    """

    whole: bool
    """Whether each process has all of the optimizer's state, so that one alone can save it."""

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a micro-batch's gradient. All processes call it as often; `last`: of this update."""

    def reduce(self, right: torch.Tensor) -> tuple[float, bool]:
        """Average the gradient over processes; the update's one wait for the device.

        Args:
            right: bool, whether this process's losses are finite.

        Returns:
            The norm of the mean gradient before clipping, and whether it and the losses of all processes are
            finite.
        """

    def step(self, lr: float) -> None:
        """Clip, take the step, and forget the gradient."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The optimizer's state by `<kind>/<name of the parameter>`, whole tensors; all processes call it."""

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`, after the weights have been restored."""


class Replicated:
    """Every process has the gradients of all adapters and takes the same step.

    Args:
        optimizer: Over the parameters.
        parameters: By name, float32, in the optimizer's order.
        clip: Largest norm of the gradient.
        accelerator: Knows the processes.
    """

    whole = True

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, torch.nn.Parameter],
        clip: float,
        accelerator: Accelerator,
    ) -> None:
        self.optimizer, self.parameters = optimizer, dict(parameters)
        self._clip, self._processes = clip, accelerator.num_processes
        self._flat: torch.Tensor | None = None
        self._scale = 1.0

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        if self._flat is None:
            self._flat = self._attached()
        loss.backward()

    @torch.no_grad()
    def reduce(self, right: torch.Tensor) -> tuple[float, bool]:
        assert self._flat is not None, "an update has at least one micro-batch"
        gradient, flag = self._flat[:-1], self._flat[-1:]
        flag.copy_(~right)
        if self._processes > 1:
            torch.distributed.all_reduce(self._flat)
            gradient.div_(self._processes)
        size, wrong = torch.stack([gradient.norm(), flag[0]]).tolist()
        self._scale = min(1.0, self._clip / (size + 1e-6))
        return size, wrong == 0 and size - size == 0

    def step(self, lr: float) -> None:
        assert self._flat is not None, "a step follows backward and reduce"
        if self._scale < 1:
            self._flat.mul_(self._scale)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._flat = None

    def tensors(self) -> dict[str, torch.Tensor]:
        return optimizer_tensors(self.optimizer, list(self.parameters))

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        load_optimizer(self.optimizer, list(self.parameters), tensors)

    def _attached(self) -> torch.Tensor:
        """Zeros into which autograd adds the parameters' gradients, and one place more for a flag."""
        values = list(self.parameters.values())
        flat = torch.zeros(sum(value.numel() for value in values) + 1, device=values[0].device)
        pieces = flat.split([*(value.numel() for value in values), 1])
        for value, piece in zip(values, pieces, strict=False):
            value.grad = piece.view_as(value)
        return flat
