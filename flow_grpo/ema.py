"""Exponential moving average of the trained weights: what is exported, and what NFT samples with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class EMA:
    """A float32 shadow of named parameters.

    Args:
        parameters: The trained parameters by name; the shadow starts as their copy.
        decay: Share of the shadow kept at each update, in [0, 1); 0 makes it the weights themselves.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().clone().float() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.Tensor], decay: float | None = None) -> None:
        """Move the shadow towards the weights. Call once after each optimizer step, not per micro-batch.

        Args:
            parameters: The weights of now.
            decay: Share of the shadow kept this time; none: that of the average.
        """
        kept = self.decay if decay is None else decay
        for name, value in parameters.items():
            self.shadow[name].lerp_(value.detach().float(), 1 - kept)

    @contextmanager
    def applied(self, parameters: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Put the shadow in place of the weights, and the weights back on leaving."""
        kept = {name: value.detach().clone() for name, value in parameters.items()}
        self._copy(self.shadow, parameters)
        try:
            yield
        finally:
            self._copy(kept, parameters)

    def load(self, shadow: Mapping[str, torch.Tensor]) -> None:
        """Replace the shadow, as read from a checkpoint."""
        self._copy(shadow, self.shadow)

    @staticmethod
    @torch.no_grad()
    def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
        for name, value in target.items():
            value.copy_(source[name])
