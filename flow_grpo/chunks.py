"""Sampling a few pictures at a time: their noise by identity, the steps that a group shares, and what is not
finite.

Shapes:  B pictures of a chunk, W stochastic steps, P prompts; ... dims of one sample's latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flow_grpo.noise import normal, seed_of, to_device
from flow_grpo.policy.base import Condition, Policy
from flow_grpo.prompts import Prompt
from flow_grpo.sample import Trajectory, Velocity, sample
from flow_grpo.sampler import Plan

#: (prompt, member) -> what seeds a picture's noise; member None -> what seeds that of a whole group.
Identity = Callable[[Prompt, int | None], tuple[int | str, ...]]


@dataclass(frozen=True)
class Item:
    """One picture to make: the row-th of the given prompts, the member-th picture of it."""

    row: int
    member: int


class NotFiniteSample(FloatingPointError):
    """A velocity or a picture is NaN or infinite.

    Attributes:
        pictures: For each picture concerned what it takes to make it again: prompt (its text), index (of the
            prompt), member, seed (of the starting noise), noise_seed (of what the stochastic steps add), and
            step: the first whose velocity is not finite; None where only the decoded picture is not.
    """

    def __init__(self, pictures: Sequence[dict[str, Any]], num_steps: int) -> None:
        self.pictures = list(pictures)
        first = self.pictures[0]
        where = (
            "the decoded picture is not finite"
            if first["step"] is None
            else f"the velocity is not finite at sampling step {first['step']} of 0 to {num_steps - 1}"
        )
        lines = [
            f"  {one['prompt']!r} (index {one['index']}), member {one['member']}, seed {one['seed']}"
            for one in self.pictures
        ]
        super().__init__(
            f"{where}, in {len(lines)} pictures; nothing was trained on them. Use model.dtype float32 to see "
            f"whether precision is the cause; if it is not, lower optimizer.lr and go on from an earlier "
            f"checkpoint.\n" + "\n".join(lines)
        )


class Sampler:
    """Samples chunks of one rollout.

    Args:
        policy: The model.
        prompts: P prompts.
        condition: They, encoded.
        plan: How to sample.
        identity: What seeds the noise of (prompt, member).
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        condition: Condition,
        plan: Plan,
        identity: Identity,
    ) -> None:
        self.policy, self.prompts, self.condition = policy, prompts, condition
        self.plan, self.identity = plan, identity
        # Read before anything is queued on the device, so that no step has to ask for them.
        self.sigmas = policy.sigmas(plan.num_steps).cpu()
        self._prefix: torch.Tensor | None = None

    @torch.no_grad()
    def run_prefix(self) -> None:
        """Sample what the members of each group share; without `plan.branch` nothing."""
        if not self.plan.prefix:
            return
        parts = []
        for rows in torch.arange(len(self.prompts)).split(self.plan.chunk):
            starts = self.policy.initial_noise([self._start_seed(Item(row, 0)) for row in rows.tolist()])
            velocity = self._velocity(rows)
            parts.append(sample(velocity, starts, self.sigmas[: self.plan.prefix + 1]).final)
        self._prefix = torch.cat(parts)

    def run(self, chunk: Sequence[Item]) -> Trajectory:
        """Sample B pictures."""
        rows = torch.tensor([item.row for item in chunk])
        if self._prefix is None:
            return self._sample(chunk, self._velocity(rows))
        start = self._prefix[to_device(rows, self.policy.device)]
        return self._sample(chunk, self._velocity(rows), start, self.plan.prefix)

    def locate(self, chunk: Sequence[Item]) -> NotFiniteSample:
        """Sample a chunk that was not finite again, looking at every velocity, to say where it began.

        Here each picture runs all of its steps, those too that its group shares, so that steps are counted
        from the first. Where nothing is wrong the second time, all pictures of the chunk are named.
        """
        velocity = self._velocity(torch.tensor([item.row for item in chunk]))
        first: dict[int, int] = {}
        calls = 0

        def watched(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            value = velocity(x, sigma)
            for place in (~value.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist():
                first.setdefault(place, calls)
            calls += 1
            return value

        final = self._sample(chunk, watched).final
        bad = sorted(first) or (~self.policy.pictures(final).isfinite()).flatten(1).any(dim=1).nonzero()
        places = [int(place) for place in bad] or range(len(chunk))
        return NotFiniteSample(
            [self._facts(chunk[place], first.get(place)) for place in places], self.plan.num_steps
        )

    def _sample(
        self, chunk: Sequence[Item], velocity: Velocity, start: torch.Tensor | None = None, first: int = 0
    ) -> Trajectory:
        plan, noise = self.plan, None
        if start is None:
            start = self.policy.initial_noise([self._start_seed(item) for item in chunk])
        if plan.stochastic:
            shape = (len(plan.stochastic), *self.policy.latent_shape)
            noise = to_device(normal([self._noise_seed(item) for item in chunk], shape), self.policy.device)
        return sample(
            velocity,
            start,
            self.sigmas,
            first=first,
            stochastic=plan.stochastic,
            noise_level=plan.noise_level,
            noise=noise,
            kind=plan.kind,
            keep_mean=plan.keep_mean,
        )

    def _velocity(self, rows: torch.Tensor) -> Velocity:
        batch = self.condition.take(to_device(rows, self.policy.device))
        return lambda x, sigma: self.policy.velocity(x, sigma, batch)

    def _start_seed(self, item: Item) -> int:
        member = None if self.plan.shared_noise else item.member
        return seed_of(*self.identity(self.prompts[item.row], member))

    def _noise_seed(self, item: Item) -> int:
        # Another generator than the starting noise's, so that what a step adds is independent of it.
        return seed_of(seed_of(*self.identity(self.prompts[item.row], item.member)), "steps")

    def _facts(self, item: Item, step: int | None) -> dict[str, Any]:
        prompt = self.prompts[item.row]
        return {
            "prompt": prompt.text,
            "index": prompt.index,
            "member": item.member,
            "seed": self._start_seed(item),
            "noise_seed": self._noise_seed(item),
            "step": step,
        }
