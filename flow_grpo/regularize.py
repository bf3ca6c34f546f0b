"""What keeps the tuned model near the base: KL to the reference, and a hinge on the velocity's norm.

The reference is the base model itself, the adapters switched off. Both terms carry gradient.

Shapes: B training examples, ... latent dims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from flow_grpo.sde import Step


@dataclass(frozen=True)
class RegularizerConfig:
    """Attributes:
    kl: exact: KL of the two Gaussian transitions, averaged over dims, mean ||mean - reference mean||² / 2 s².
        flow_grpo: as published, divided by 2 g² instead (s² = g² Δ, so it is smaller by the factor Δ).
        velocity: mean ||v - v_ref||² as in DiffusionNFT, the same at every sigma; it needs no transition, so
        it is the one for nft.
    kl_weight: Weight of the KL in the loss; 0 leaves it out, together with its forward passes.
    norm_weight: Weight of the velocity-norm penalty, max(0, |‖v‖ / ‖v_ref‖ - 1| - norm_margin)²; 0 leaves it
        out. Perceptual rewards drive contrast and saturation up, which shows in this ratio first.
    norm_margin: Relative change of the norm that is free.
    """

    kl: Literal["exact", "flow_grpo", "velocity"] = "exact"
    kl_weight: float = 0.0
    norm_weight: float = 0.0
    norm_margin: float = 0.02

    @property
    def needs_reference(self) -> bool:
        """Whether the reference model has to be evaluated at all."""
        return self.kl_weight > 0 or self.norm_weight > 0


def kl_to_reference(step: Step, reference_mean: torch.Tensor, kind: str) -> torch.Tensor:
    """KL [B] from the policy's transition to the reference's, with gradient through `step.mean`."""
    squared = ((step.mean - reference_mean.detach()) ** 2).flatten(1).mean(dim=1)
    scale = step.std if kind == "exact" else step.diffusion
    return squared / (2 * scale**2)


def velocity_kl(velocity: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean squared difference [B] of the velocities, with gradient through `velocity`."""
    return ((velocity - reference.detach()) ** 2).flatten(1).mean(dim=1)


def norm_ratio(velocity: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """||v|| / ||v_ref|| [B], with gradient through `velocity`."""
    return velocity.flatten(1).norm(dim=1) / reference.detach().flatten(1).norm(dim=1)


def norm_penalty(velocity: torch.Tensor, reference: torch.Tensor, margin: float) -> torch.Tensor:
    """Squared hinge [B] on the relative change of the velocity's norm, with gradient through `velocity`."""
    return (norm_ratio(velocity, reference) - 1).abs().sub(margin).clamp_min(0) ** 2
