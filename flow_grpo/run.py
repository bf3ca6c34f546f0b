"""The parts of one run, and how they are saved and restored together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flow_grpo import checkpoint
from flow_grpo.checkpoint import Checkpoint
from flow_grpo.config import TrainConfig
from flow_grpo.ema import EMA
from flow_grpo.noise import seed_of
from flow_grpo.order import cursor
from flow_grpo.pace import is_split
from flow_grpo.policy import build_policy
from flow_grpo.policy.base import Policy
from flow_grpo.policy.probe import settled
from flow_grpo.policy.text import encode_ahead
from flow_grpo.prompts import Prompt, read_prompts
from flow_grpo.split import build_stepper, distribute
from flow_grpo.stepper import Stepper
from flow_grpo.update import Updater
from flow_grpo.validate import KeepBest
from flow_grpo.window import draw_window

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Run:
    """Everything that a checkpoint has to hold, and what it belongs to.

    Attributes:
        config: The run's configuration.
        policy: The model.
        stepper: The optimizer over the policy's adapters.
        ema: Their average.
        updater: Takes the optimizer steps.
        model: Fingerprint of the frozen weights.
        keeper: Which validation was the best.
        prompts: Training prompts.
        held_out: Validation prompts; may be empty.
        iteration: Completed iterations.
        between: Whether some of an iteration's updates have been made and not all; then there is nothing to
            save.
        multipliers: Constrained dimension -> Lagrange weight of the last iteration (`flow_grpo.constraint`).
        validated: Iteration of the last validation; -1 before the first. An outage may end a run between an
            iteration and its validation, which is then made on resuming.
        best: Adapter weights of the best validation; empty before the first.
    """

    config: TrainConfig
    policy: Policy
    stepper: Stepper
    ema: EMA
    updater: Updater
    model: str
    keeper: KeepBest
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    iteration: int = 0
    between: bool = False
    multipliers: dict[str, float] = field(default_factory=dict)
    validated: int = -1
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.config.run_dir)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.folder / "checkpoints"

    @contextmanager
    def completing_iteration(self) -> Iterator[None]:
        """Around the updates of an iteration, after which it counts as completed."""
        self.between = True
        yield
        self.iteration, self.between = self.iteration + 1, False

    def remember_best(self) -> None:
        """Remember the averaged weights of now as the best."""
        self.best = {name: value.clone() for name, value in self.ema.shadow.items()}

    def export(self) -> Path:
        """Write the best weights, or without validation the averaged ones of now, as a diffusers LoRA."""
        return self.policy.export(self.folder, self.best or self.ema.shadow)

    def save(self, accelerator: Accelerator) -> Path:
        """Write a checkpoint of the last completed iteration, and the LoRA to use if the run ended here.

        The first process writes, where the state is not `stepper.whole` with the help of all; the path is
        the same on all.
        """
        optimizer = self.stepper.tensors() if accelerator.is_main_process or not self.stepper.whole else {}
        if not accelerator.is_main_process:
            return self.checkpoints / checkpoint.name(self.iteration)
        self.export()
        config = self.config
        place = cursor(self.iteration, len(self.prompts), config.prompts.per_iteration)
        drawn = (config.sampler.window, config.sampler.num_steps, config.seed, self.iteration)
        window = draw_window(*drawn) if self.updater.old is None else ()
        tensors: dict[str, Mapping[str, torch.Tensor]] = {
            "adapter": dict(self.policy.trainable),
            "ema": self.ema.shadow,
            "optimizer": optimizer,
            "random": {"torch": torch.get_rng_state()},
            **({"best": self.best} if self.best else {}),
            **({"old": self.updater.old.shadow} if self.updater.old else {}),
        }
        state = {
            "iteration": self.iteration,
            "validated": self.validated,
            "optimizer_steps": self.updater.steps,
            "keeper": self.keeper.state(),
            "multipliers": self.multipliers,
            "prompts": fingerprint(self.prompts),
            "model": self.model,
            # Both follow from seed and iteration; they are here to be read and checked.
            "seed": config.seed,
            "cursor": {"epoch": place.epoch, "offset": place.offset},
            "window": list(window),
        }
        return checkpoint.save(
            self.checkpoints, self.iteration, Checkpoint(tensors, state), config.checkpoint.keep
        )

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: It belongs to another model, seed or prompt file.
        """
        stored = checkpoint.load(path)
        state, names = stored.state, list(self.policy.trainable)
        for key, there, here in (
            ("model.path (weights)", state.get("model", self.model), self.model),
            ("seed", state["seed"], self.config.seed),
            ("prompts.train (content)", state["prompts"], fingerprint(self.prompts)),
            ("model.lora (layers)", sorted(stored.tensors["adapter"]), sorted(names)),
            ("algorithm (a policy that samples)", "old" in stored.tensors, self.updater.old is not None),
        ):
            if there != here:
                raise ValueError(
                    f"--resume {path}: {key} is not what this run began with; use that, or another run_dir."
                )
        with torch.no_grad():
            for name, value in self.policy.trainable.items():
                if value.shape != stored.tensors["adapter"][name].shape:
                    raise ValueError(
                        f"--resume {path}: model.lora.rank differs from the checkpoint's; use the same."
                    )
                value.copy_(stored.tensors["adapter"][name])
        self.ema.load(stored.tensors["ema"])
        if self.updater.old is not None:
            self.updater.old.load(stored.tensors["old"])
        self.stepper.load(stored.tensors["optimizer"])
        torch.set_rng_state(stored.tensors["random"]["torch"])
        self.best = dict(stored.tensors.get("best", {}))
        self.keeper = KeepBest(**state["keeper"])
        self.multipliers = dict(state.get("multipliers", {}))
        self.updater.steps = state["optimizer_steps"]
        self.iteration, self.validated = state["iteration"], state["validated"]


def read_all_prompts(config: TrainConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Training and validation prompts.

    Raises:
        ValueError: A file is missing, empty, or holds duplicates that are not allowed.
    """
    train = read_prompts(config.prompts.train, allow_duplicates=config.prompts.allow_duplicates)
    if config.prompts.validation is None:
        return hold_back(train, config.prompts.held_back)
    held_out = read_prompts(config.prompts.validation, allow_duplicates=config.prompts.allow_duplicates)
    return train, held_out[: config.validation.max_prompts]


def hold_back(prompts: Sequence[Prompt], count: int) -> tuple[list[Prompt], list[Prompt]]:
    """Split off `count` prompts, evenly spread, so that every category of a sorted file is among them."""
    count = min(count, len(prompts))
    taken = {(2 * number + 1) * len(prompts) // (2 * count) for number in range(count)}
    rest = [prompt for place, prompt in enumerate(prompts) if place not in taken]
    return rest, [prompts[place] for place in sorted(taken)]


def prepare(
    config: TrainConfig, accelerator: Accelerator, prompts: Sequence[Prompt], held_out: Sequence[Prompt]
) -> Run:
    """Load the model and build what trains it, at iteration 0."""
    policy = build_policy(
        config.model,
        accelerator.device,
        seed=seed_of(config.seed, "lora") % 2**32,
        whole=not is_split(accelerator),
    )
    encode_ahead(policy, [prompt.text for prompt in (*prompts, *held_out)], accelerator)
    model = base_fingerprint(policy.module)
    distribute(policy, accelerator)
    config = settled(config, policy, prompts[0].text, accelerator)
    stepper = build_stepper(policy, config.optimizer, accelerator)
    ema = EMA(policy.trainable, config.optimizer.ema_decay)
    updater = Updater(policy, stepper, ema, config, accelerator)
    return Run(config, policy, stepper, ema, updater, model, KeepBest(), prompts, held_out)


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """Changes when any text or its place in the file does."""
    return hashlib.sha256(repr([prompt.text for prompt in prompts]).encode()).hexdigest()[:16]


def base_fingerprint(module: torch.nn.Module) -> str:
    """Changes when the frozen weights do, wherever they lie and whatever they are stored in.

    It reads about 64 elements of each parameter, rounded to bfloat16. A LoRA that goes on upon other weights
    would be neither the old run nor a new one.
    """
    samples = [
        value.detach().flatten()[:: max(1, value.numel() // 64)].to(torch.bfloat16)
        for value in module.parameters()
        if not value.requires_grad
    ]
    return hashlib.sha256(torch.cat(samples).view(torch.int16).cpu().numpy().tobytes()).hexdigest()[:16]
