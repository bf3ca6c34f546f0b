"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): reinforcement on the forward process.

No trajectory and no likelihood: the policy that sampled, v_old, makes pictures x0 with any sampler, here the
ODE; each is noised again, x = (1 - sigma) x0 + sigma noise, and the trained velocity v is pulled towards good
pictures and pushed away from bad ones through two mixtures,

    v+ = (1 - beta) v_old + beta v          v- = (1 + beta) v_old - beta v
    loss = range / beta (r |x0+ - x0|² / w+  +  (1 - r) |x0- - x0|² / w-),    x0± = x - sigma v±

with r = clip(A / 2 range + 1/2, 0, 1) the probability that the picture is optimal, |.|² a mean over latent
dims and w± = mean |x0± - x0|, without gradient. At v = v_old the gradient is A times that of the weighted
flow-matching loss of x0, whatever beta; away from it v is drawn back, in proportion to beta.

v_old follows v slowly: v_old <- d v_old + (1 - d) v after each iteration, d rising with the optimizer steps.

Departures from the published code (NVlabs/DiffusionNFT): Euler's method instead of a second-order solver; the
sigmas and the noise of a picture follow from its identity; v_old is evaluated once for each example, not by
micro-batch of an update; the KL term is `regularizer.kl: velocity` (published weight 1e-4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Config:
    """Attributes:
    beta: Share of the new velocity in the mixtures, > 0; the smaller, the further a rollout may move v from
        v_old. Published: 1 (GenEval, PickScore), 0.1 (OCR, several rewards).
    advantage_range: Advantage at which a picture counts as surely optimal, r = 1.
    sigmas_per_image: Sigmas that each picture is noised to, drawn from the sampling grid without
        replacement; none: all but one, as published.
    shared_noise: All pictures of a group get the same noise and sigmas; published: each its own. Advantages
        of a group sum to 0, so what its pictures' gradients have in common, mostly noise, cancels.
    old_flat: Optimizer steps for which the sampling policy is the trained one itself, d = 0.
    old_rate: After them d grows by this at each optimizer step. Published: 0.001 after 0 steps, up to 0.5;
        or (OCR) 0.0075 after 75, up to 0.999.
    old_limit: Largest d.
    """

    beta: float = 1.0
    advantage_range: float = 5.0
    sigmas_per_image: int | None = None
    shared_noise: bool = False
    old_flat: int = 0
    old_rate: float = 0.001
    old_limit: float = 0.5

    needs_trajectory: ClassVar[bool] = False
    needs_old_mean: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("flow_sde", "cps", "dance_sde")

    def count(self, num_steps: int) -> int:
        """Sigmas for each picture of a run with so many sampling steps."""
        return self.sigmas_per_image or max(1, num_steps - 1)

    def old_decay(self, steps: int) -> float:
        """d, the share of the sampling policy kept after `steps` optimizer steps in all."""
        return min(max(0.0, (steps - self.old_flat) * self.old_rate), self.old_limit)


#: Smallest weight w; a picture that is predicted exactly would divide by 0.
WEIGHT_FLOOR = 1e-5


@dataclass(frozen=True)
class Inputs:
    """One micro-batch of B noised pictures.

    Attributes:
        x: [B, ...], the noised picture.
        clean: [B, ...], x0.
        sigma: [B].
        velocity: [B, ...], of the policy of now, with gradient.
        old_velocity: [B, ...], of the policy that sampled.
        advantage: [B].
    """

    x: torch.Tensor
    clean: torch.Tensor
    sigma: torch.Tensor
    velocity: torch.Tensor
    old_velocity: torch.Tensor
    advantage: torch.Tensor


def loss(inputs: Inputs, config: Config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each noised picture [B] and metrics [B]; the caller weighs and averages."""
    v, old, beta = inputs.velocity, inputs.old_velocity, config.beta
    optimal = (inputs.advantage / (2 * config.advantage_range) + 0.5).clamp(0, 1)
    good = _reconstruction((1 - beta) * old + beta * v, inputs)
    bad = _reconstruction((1 + beta) * old - beta * v, inputs)
    value = (optimal * good + (1 - optimal) * bad) * config.advantage_range / beta
    with torch.no_grad():
        metrics = {
            "optimality": optimal,
            "old_distance": ((v - old) ** 2).flatten(1).mean(dim=1),
            "positive_loss": good.detach(),
            "negative_loss": bad.detach(),
        }
    return value, metrics


def _reconstruction(velocity: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Error of the predicted picture [B]: its mean square over its mean, the latter without gradient."""
    sigma = inputs.sigma.reshape(-1, *[1] * (velocity.dim() - 1))
    error = (inputs.x - sigma * velocity - inputs.clean).flatten(1)
    weight = error.detach().abs().mean(dim=1).clamp_min(WEIGHT_FLOOR)
    return (error**2).mean(dim=1) / weight
