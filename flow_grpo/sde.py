"""One denoising step as a stochastic transition x_sigma -> x_sigma' with a log-probability.

The same function samples (no `x_next`: it is drawn) and re-scores (`x_next` given: its log-probability under
the velocity of now). All arithmetic is float32, whatever the model's dtype.

Shapes:  B elements, each with its own sigma (several steps of a trajectory may share one batch); ... latent
    dims.

Three transitions, with v the velocity, Δ = sigma - sigma' > 0, a the noise level:

flow_sde   Flow-GRPO (Liu et al. 2025, arXiv 2505.05470). g = a sqrt(sigma / (1 - sigma)), where sigma = 1
           takes the grid's second point instead; s = g sqrt(Δ);
           mean = x (1 - g²Δ / 2 sigma) - v (1 + g² (1 - sigma) / 2 sigma) Δ.
cps        Coefficient-preserving sampling (Wang and Yu 2025, arXiv 2509.05952). s = sigma' sin(a pi / 2);
           mean = (1 - sigma') x0 + sqrt(sigma'² - s²) x1, with x0 = x - sigma v and x1 = x + (1 - sigma) v.
dance_sde  DanceGRPO (Xue et al. 2025, arXiv 2505.07818). g = a; s = a sqrt(Δ);
           mean = x - Δ (v + a² (x - (1 - sigma) x0) / 2 sigma²).

Log-probabilities are the mean over latent dims, as published: of the Gaussian log-density for flow_sde and
dance_sde, of -(x' - mean)² for cps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch

Kind = Literal["flow_sde", "cps", "dance_sde"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Step:
    """What one transition produced.

    Attributes:
        x_next: float32 [B, ...], the sample at sigma_next.
        mean: float32 [B, ...], mean of the transition; it carries the velocity's gradient.
        std: float32 [B], standard deviation s of the transition; 0 where the step is the ODE's.
        diffusion: float32 [B], the coefficient by whose square the published KL divides: g for flow_sde and
            dance_sde (s = g sqrt(Δ)), s itself for cps.
        log_prob: float32 [B], NaN where std is 0: a deterministic step has none.
    """

    x_next: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    diffusion: torch.Tensor
    log_prob: torch.Tensor


def step(
    velocity: torch.Tensor,
    x: torch.Tensor,
    sigma: torch.Tensor | float,
    sigma_next: torch.Tensor | float,
    noise_level: torch.Tensor | float,
    *,
    kind: Kind | torch.Tensor = "flow_sde",
    noise: torch.Tensor | None = None,
    x_next: torch.Tensor | None = None,
) -> Step:
    """Take, or evaluate, one step from sigma to sigma_next.

    Args:
        velocity: [B, ...], the model's prediction (noise minus data).
        x: [B, ...], the sample at sigma.
        sigma: scalar or [B], in (0, 1].
        sigma_next: scalar or [B], in [0, sigma).
        noise_level: a, scalar or [B], >= 0 (cps: <= 1). 0 gives the Euler step of the probability-flow ODE.
        kind: Which transition; or int [B], an index into `KINDS` for each element, where they differ.
        noise: [B, ...] standard normal, used when x_next is None; may be left out when noise_level is the
            number 0.
        x_next: [B, ...], evaluate this sample instead of drawing one.

    Raises:
        ValueError: Unknown kind, or neither noise nor x_next on a stochastic step.
    """
    if isinstance(kind, torch.Tensor):
        # Elementwise work only, so computing every kind costs little beside the velocity, and nothing waits
        # for the device to say which kinds there are.
        every = (sigma, sigma_next, noise_level)
        return _selected(
            kind, [step(velocity, x, *every, kind=name, noise=noise, x_next=x_next) for name in KINDS]
        )
    velocity, x = velocity.float(), x.float()
    sigma, sigma_next, a = (_expand(value, x) for value in (sigma, sigma_next, noise_level))
    mean, std, diffusion = _transition(kind, velocity, x, sigma, sigma_next, a)
    if x_next is None:
        if noise is None and not (isinstance(noise_level, float | int) and noise_level == 0):
            raise ValueError(
                "a step with noise_level > 0 needs `noise` (to sample) or `x_next` (to re-score)."
            )
        x_next = mean if noise is None else mean + std * noise.float()
    x_next = x_next.float()
    return Step(x_next, mean, std.flatten(), diffusion.flatten(), _log_prob(kind, x_next, mean, std))


def _transition(
    kind: str,
    v: torch.Tensor,
    x: torch.Tensor,
    sigma: torch.Tensor,
    sigma_next: torch.Tensor,
    a: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, std and diffusion coefficient; the coefficients are [B, 1, ...]."""
    delta = sigma - sigma_next
    if kind == "flow_sde":
        # sigma is 1 on the first step only, and there sigma_next is the grid's second point. Some constant
        # shifts (1.18, 1.32) give 1 only up to rounding, and 1 - sigma would be 1e-7 or negative.
        sigma_hat = torch.where(sigma > 1 - 1e-6, sigma_next, sigma)
        g = a * torch.sqrt(sigma / (1 - sigma_hat))
        mean = x * (1 - g**2 * delta / (2 * sigma)) - v * (1 + g**2 * (1 - sigma) / (2 * sigma)) * delta
        return mean, g * torch.sqrt(delta), g
    if kind == "dance_sde":
        score = (x - (1 - sigma) * (x - sigma * v)) / sigma**2
        return x - delta * (v + 0.5 * a**2 * score), a * torch.sqrt(delta), a
    if kind == "cps":
        std = sigma_next * torch.sin(a * (math.pi / 2))
        x0, x1 = x - sigma * v, x + (1 - sigma) * v
        return (1 - sigma_next) * x0 + torch.sqrt((sigma_next**2 - std**2).clamp_min(0)) * x1, std, std
    raise ValueError(f"sampler kind is {kind!r}; known: {', '.join(KINDS)}.")


def _log_prob(kind: str, x_next: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    error = (x_next.detach() - mean) ** 2
    if kind != "cps":
        # A safe divisor first: dividing by 0 and masking afterwards would put NaN into the gradient.
        safe = torch.where(std > 0, std, torch.ones_like(std))
        error = error / (2 * safe**2) + torch.log(safe) + 0.5 * math.log(2 * math.pi)
    log_prob = -error.flatten(1).mean(dim=1)
    return torch.where(std.flatten() > 0, log_prob, torch.full_like(log_prob, float("nan")))


def _selected(kind: torch.Tensor, steps: Sequence[Step]) -> Step:
    """Of steps computed with each of `KINDS`, every element's own."""
    chosen = {}
    for field in fields(Step):
        first, *others = (getattr(candidate, field.name) for candidate in steps)
        for index, other in enumerate(others, start=1):
            first = torch.where((kind == index).reshape(-1, *[1] * (other.dim() - 1)), other, first)
        chosen[field.name] = first
    return Step(**chosen)


def _expand(value: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
    """A scalar or [B] as float32 [B, 1, ...]."""
    # A number is filled in on the device: copying it there would wait for all that the device has to do.
    tensor = value.to(x.device, torch.float32) if isinstance(value, torch.Tensor) else x.new_full((), value)
    return tensor.expand(x.shape[0]).reshape(-1, *[1] * (x.dim() - 1))
