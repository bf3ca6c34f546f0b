"""The denoising loop: noise in, trajectory out.

Shapes:  B samples, T steps, S image tokens, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from flow_grpo.sde import Kind, step

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x [B, S, C], sigma [B]) -> velocity [B, S, C]."""


@dataclass(frozen=True)
class Trajectory:
    """Everything of a rollout that re-scoring needs, for the stochastic steps only.

    Attributes:
        steps: The W indices of the stochastic steps.
        kinds: Transition of each of them.
        noise_levels: a of each of them.
        x: float32 [B, W, S, C], the sample before each of them. Float32 whatever the model's dtype: rounded
            to bf16 their log-probability moves by more than a clip range.
        x_next: float32 [B, W, S, C], the sample after each.
        log_prob: float32 [B, W].
        mean: float32 [B, W, S, C], mean of each transition, or None when it was not asked for.
        final: float32 [B, S, C], the sample at sigma 0.
    """

    steps: tuple[int, ...]
    kinds: tuple[Kind, ...]
    noise_levels: tuple[float, ...]
    x: torch.Tensor
    x_next: torch.Tensor
    log_prob: torch.Tensor
    mean: torch.Tensor | None
    final: torch.Tensor


@torch.no_grad()
def sample(
    velocity: Velocity,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    first: int = 0,
    stochastic: Sequence[int] = (),
    noise_level: float | Sequence[float] = 0.0,
    noise: torch.Tensor | None = None,
    kind: Kind | Sequence[Kind] = "flow_sde",
    keep_mean: bool = False,
) -> Trajectory:
    """Integrate from sigmas[first] to sigmas[-1], stochastically on the given steps and by Euler elsewhere.

    The host never waits for the device on the way: what it decides on, it knows before.

    Args:
        velocity: The model.
        x: [B, S, C], the starting noise; with `first`, the sample at sigmas[first].
        sigmas: [T + 1], decreasing, last 0; on the CPU, or reading them waits for the device once.
        first: Step to begin with; steps keep their numbers.
        stochastic: Indices of the steps that get noise, none before `first`.
        noise_level: a of `flow_grpo.sde`, > 0, on all those steps or on each.
        noise: [B, len(stochastic), S, C] standard normal.
        kind: Transition on all those steps or on each.
        keep_mean: Keep the transition means too (GRPO-Guard needs them).
    """
    x, grid = x.float(), [float(sigma) for sigma in sigmas.tolist()]
    kinds: Sequence[Kind] = [kind] * len(stochastic) if isinstance(kind, str) else kind
    levels = [noise_level] * len(stochastic) if isinstance(noise_level, float | int) else noise_level
    kept: dict[str, list[torch.Tensor]] = {"x": [], "x_next": [], "log_prob": [], "mean": []}
    position = {index: order for order, index in enumerate(stochastic)}
    for index in range(first, len(grid) - 1):
        sigma, sigma_next = x.new_full((len(x),), grid[index]), grid[index + 1]
        prediction = velocity(x, sigma)
        if index not in position:
            x = step(prediction, x, sigma, sigma_next, 0.0).x_next
            continue
        assert noise is not None, "stochastic steps need noise"
        order = position[index]
        result = step(
            prediction, x, sigma, sigma_next, levels[order], kind=kinds[order], noise=noise[:, order]
        )
        kept["x"].append(x)
        kept["x_next"].append(result.x_next)
        kept["log_prob"].append(result.log_prob)
        if keep_mean:
            kept["mean"].append(result.mean)
        x = result.x_next
    empty = x.new_zeros((x.shape[0], 0, *x.shape[1:]))
    return Trajectory(
        steps=tuple(stochastic),
        kinds=tuple(kinds),
        noise_levels=tuple(levels),
        x=torch.stack(kept["x"], 1) if kept["x"] else empty,
        x_next=torch.stack(kept["x_next"], 1) if kept["x_next"] else empty,
        log_prob=torch.stack(kept["log_prob"], 1) if kept["log_prob"] else x.new_zeros((x.shape[0], 0)),
        mean=torch.stack(kept["mean"], 1) if kept["mean"] else None,
        final=x,
    )
