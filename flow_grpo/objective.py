"""From velocities to the loss of each example: the algorithm's own, and the terms that hold it at the base.

Shapes:  E examples of a micro-batch, S tokens, C channels.
"""

from __future__ import annotations

import torch

from flow_grpo.algorithms import ALGORITHMS, nft
from flow_grpo.algorithms.grpo import Inputs
from flow_grpo.config import TrainConfig, algorithm_config
from flow_grpo.examples import Examples, Noised, Transitions
from flow_grpo.regularize import kl_to_reference, norm_penalty, norm_ratio, velocity_kl
from flow_grpo.sde import Step, step

Terms = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Loss [E] with gradient, and metrics, each [E]."""


def objective(
    velocity: torch.Tensor, part: Examples, config: TrainConfig, on_policy: bool, kl_factor: float = 1.0
) -> Terms:
    """Loss and metrics of each example.

    Args:
        velocity: [E, S, C], of the policy of now at `part.x`, with gradient.
        part: The examples.
        config: The run's configuration.
        on_policy: The weights are still those that sampled (objectives on trajectories).
        kl_factor: What `regularizer.kl_weight` is multiplied by.
    """
    if isinstance(part, Transitions):
        return _on_transitions(velocity, part, config, on_policy, kl_factor)
    assert isinstance(part, Noised) and part.old_velocity is not None, "the old policy was not evaluated"
    inputs = nft.Inputs(part.x, part.clean, part.sigma, velocity, part.old_velocity, part.advantage)
    values, metrics = nft.loss(inputs, config.nft)
    return _regularized(values, metrics, velocity, part, config, None, kl_factor)


def _on_transitions(
    velocity: torch.Tensor, part: Transitions, config: TrainConfig, on_policy: bool, kl_factor: float
) -> Terms:
    now = _rescored(velocity, part)
    inputs = Inputs(
        log_prob=now.log_prob,
        # While the weights are those that sampled, this very forward gives the old log-probability without
        # the differences of batch shape, which in bf16 are as large as a clip range.
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
    return _regularized(values, metrics, velocity, part, config, now, kl_factor)


def _regularized(
    values: torch.Tensor,
    metrics: dict[str, torch.Tensor],
    velocity: torch.Tensor,
    part: Examples,
    config: TrainConfig,
    now: Step | None,
    kl_factor: float,
) -> Terms:
    """Add the terms that need the reference; `now` is the transition under the policy, if there is one."""
    if part.reference is None:
        return values, metrics
    regularizer = config.regularizer
    if regularizer.kl == "velocity":
        kl = velocity_kl(velocity, part.reference)
    else:
        assert isinstance(part, Transitions) and now is not None, "only transitions have a KL of transitions"
        kl = kl_to_reference(now, _rescored(part.reference, part).mean, regularizer.kl)
    norm = norm_penalty(velocity, part.reference, regularizer.norm_margin)
    values = values + kl_factor * regularizer.kl_weight * kl + regularizer.norm_weight * norm
    ratio = norm_ratio(velocity, part.reference).detach()
    return values, {**metrics, "kl": kl, "norm_penalty": norm, "velocity_norm_ratio": ratio}


def _rescored(velocity: torch.Tensor, part: Transitions) -> Step:
    """The stored transition under a velocity."""
    return step(
        velocity,
        part.x,
        part.sigma,
        part.sigma_next,
        part.noise_level,
        kind=part.kind,
        x_next=part.x_next,
    )
