"""What the trainer asks of a model. Words of one architecture (packing, position ids) stay in its own file.

Shapes:  B samples, P prompts, S latent tokens, C channels of a token, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from flow_grpo.policy.text import TextEmbeddings


@dataclass(frozen=True)
class Condition:
    """Encoded prompts, one row each.

    Attributes:
        tensors: Named tensors whose first dimension is P; which names is the policy's business.
    """

    tensors: Mapping[str, torch.Tensor]

    def take(self, rows: torch.Tensor) -> Condition:
        """The condition of a batch, row rows[b] for sample b."""
        return Condition({name: value[rows] for name, value in self.tensors.items()})


def as_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] of floats in [0, 1], on the same device."""
    return (pictures * 255).round().to(torch.uint8).contiguous()


class Policy(Protocol):
    """A flow-matching model with trainable adapters on a frozen base."""

    module: torch.nn.Module
    """What `velocity` calls; the trainer may put a wrapper in its place."""

    texts: TextEmbeddings
    """Embeddings of prompts, which `encode` puts together."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample: (S, C), or (C, height, width) where the model takes latents unpacked."""

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """The adapters' float32 parameters by name."""

    def sigmas(self, num_steps: int) -> torch.Tensor:
        """The grid that the model's own pipeline uses at this resolution, float32 [num_steps + 1]."""

    def encode(self, texts: Sequence[str]) -> Condition:
        """Encode prompts; a text that was encoded lately is not computed again."""

    def initial_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Starting latents [B, S, C], as the model's pipeline draws them from generators with these seeds."""

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        """Float32 [B, S, C] prediction at x [B, S, C] and sigma [B]."""

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Float32 [B, H, W, 3] in [0, 1], on the policy's device, of latents at sigma 0; the host does not
        wait."""

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """The same as uint8 [B, H, W, 3] on the host, see `as_bytes`."""

    def reference(self) -> AbstractContextManager[None]:
        """Within it, `velocity` is that of the base model: adapters off."""

    def export(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> Path:
        """Write adapter weights in the format that diffusers loads; returns the file."""
