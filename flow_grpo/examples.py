"""What a scored rollout is trained on: stochastic transitions, or noised versions of the final pictures.

Every example is one forward and backward pass of the model for one picture at one sigma; all of a rollout's
are flattened into one batch, because a flow model takes a sigma for each element.

Shapes:  B pictures of this process, W stochastic steps, K sigmas for each picture, E examples (B W or B K),
    S tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch

from flow_grpo.noise import normal, permutation, seed_of
from flow_grpo.sample import Trajectory
from flow_grpo.sde import KINDS, Kind


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What every objective needs of E examples, the picture's index running slowest.

    Attributes:
        x: float32 [E, S, C], where the velocity is evaluated.
        sigma: float32 [E].
        row: int [E], the prompt's row in the condition.
        share: int [E], which of the iteration's updates uses the example.
        advantage: float32 [E].
        reference: float32 [E, S, C], velocity of the base model, or None where no term needs it.
    """

    x: torch.Tensor
    sigma: torch.Tensor
    row: torch.Tensor
    share: torch.Tensor
    advantage: torch.Tensor
    reference: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: torch.Tensor) -> Self:
        """The examples at `index`."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{name: v[index] if isinstance(v, torch.Tensor) else v for name, v in values.items()}
        )

    def chunks(self, size: int) -> Iterator[Self]:
        """Consecutive pieces of at most `size`."""
        for index in torch.arange(len(self), device=self.x.device).split(size):
            yield self.take(index)


@dataclass(frozen=True, kw_only=True)
class Transitions(Examples):
    """Stochastic steps of trajectories; `x` is the sample before the step.

    Attributes:
        x_next: float32 [E, S, C], the sample after it.
        sigma_next: float32 [E].
        kind: Transition of all, or int [E], an index into `flow_grpo.sde.KINDS`, where steps differ.
        noise_level: float32 [E], a of the transition.
        old_log_prob: float32 [E], under the weights that sampled.
        old_mean: float32 [E, S, C], transition mean at sampling, or None.
    """

    x_next: torch.Tensor
    sigma_next: torch.Tensor
    kind: Kind | torch.Tensor
    noise_level: torch.Tensor
    old_log_prob: torch.Tensor
    old_mean: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Noised(Examples):
    """Final pictures noised again by the forward process; `x` = (1 - sigma) clean + sigma noise.

    Attributes:
        clean: float32 [E, S, C], the picture's latent.
        old_velocity: float32 [E, S, C], velocity of the policy that sampled, or None before it is evaluated.
    """

    clean: torch.Tensor
    old_velocity: torch.Tensor | None = None


def transitions(
    trajectory: Trajectory,
    sigmas: torch.Tensor,
    rows: torch.Tensor,
    share: torch.Tensor,
    advantage: torch.Tensor,
) -> Transitions:
    """The W stochastic steps of each picture.

    Args:
        trajectory: Of B pictures.
        sigmas: The sampling grid.
        rows: int [B], prompt row of each picture.
        share: int [B], the update that uses each picture.
        advantage: float32 [B].
    """
    B, W, kinds = len(trajectory.x), len(trajectory.steps), trajectory.kinds
    device = trajectory.x.device
    steps = torch.tensor(trajectory.steps, device=device)
    numbers = torch.tensor([KINDS.index(kind) for kind in kinds], device=device)
    return Transitions(
        x=trajectory.x.flatten(0, 1),
        x_next=trajectory.x_next.flatten(0, 1),
        sigma=sigmas[steps].repeat(B),
        sigma_next=sigmas[steps + 1].repeat(B),
        kind=kinds[0] if len(set(kinds)) == 1 else numbers.repeat(B),
        noise_level=torch.tensor(trajectory.noise_levels, device=device).repeat(B),
        row=rows.repeat_interleave(W),
        share=share.repeat_interleave(W),
        advantage=advantage.repeat_interleave(W),
        old_log_prob=trajectory.log_prob.flatten(),
        old_mean=None if trajectory.mean is None else trajectory.mean.flatten(0, 1),
    )


def noised(
    clean: torch.Tensor,
    sigmas: torch.Tensor,
    rows: torch.Tensor,
    share: torch.Tensor,
    advantage: torch.Tensor,
    *,
    seeds: Sequence[int],
    count: int,
) -> Noised:
    """Each picture noised to `count` sigmas, drawn without replacement from the sampling grid.

    A picture's sigmas and noise follow from its seed alone, so neither batch nor process changes them.

    Args:
        clean: float32 [B, S, C], latents at sigma 0.
        sigmas: The sampling grid [T + 1], the last 0.
        rows: int [B], prompt row of each picture.
        share: int [B], the update that uses each picture.
        advantage: float32 [B].
        seeds: B seeds, by identity of the picture.
        count: K, at most T.
    """
    orders = [permutation(len(sigmas) - 1, seed_of(seed, "sigmas"))[:count] for seed in seeds]
    sigma = sigmas[torch.tensor(orders, device=sigmas.device)].flatten()
    noise = normal([seed_of(seed, "noise") for seed in seeds], (count, *clean.shape[1:])).to(clean.device)
    clean = clean.repeat_interleave(count, dim=0)
    level = sigma[:, None, None]
    return Noised(
        x=(1 - level) * clean + level * noise.flatten(0, 1),
        clean=clean,
        sigma=sigma,
        row=rows.repeat_interleave(count),
        share=share.repeat_interleave(count),
        advantage=advantage.repeat_interleave(count),
    )
