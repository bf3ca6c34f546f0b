"""How training pictures are sampled: the configuration, and what follows from it for each step.

Pure functions of (configuration, seed, iteration), so that every rank, and a resumed run, agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flow_grpo.sde import Kind
from flow_grpo.window import WindowConfig, draw_window, possible_windows


@dataclass(frozen=True)
class StepConfig:
    """Noise of one step.

    Attributes:
        kind: Its transition; none: sampler.kind.
        noise_level: Its a; none: sampler.noise_level. 0 makes it a step of the ODE, which is never trained.
    """

    kind: Kind | None = None
    noise_level: float | None = None


@dataclass(frozen=True)
class SamplerConfig:
    """How pictures are sampled in training.

    Attributes:
        kind: Stochastic transition, see `flow_grpo.sde`.
        num_steps: Transformer evaluations for a picture.
        noise_level: a, on the steps of the window.
        window: Which steps are stochastic and trained.
        steps: Step -> what it does otherwise than the rest, for mixed samplers, e.g.
            {0: {kind: cps, noise_level: 0.8}, 3: {noise_level: 0}}. Outside of the window it has no effect.
        shared_noise: All members of a group start from the same noise and differ by what the stochastic steps
            add.
        branch: Run the deterministic steps before the window once for each prompt and repeat the result for
            the members of its group, as the first Flow-GRPO-Fast; needs shared_noise.
        chunk: Pictures sampled together by a process; while one chunk is sampled the one before is scored.
    """

    kind: Kind = "flow_sde"
    num_steps: int = 6
    noise_level: float = 0.9
    window: WindowConfig = field(default_factory=WindowConfig)
    steps: dict[int, StepConfig] = field(default_factory=dict)
    shared_noise: bool = False
    branch: bool = False
    chunk: int = 24


def transition(config: SamplerConfig, index: int) -> tuple[Kind, float]:
    """Kind and noise level of a step, were it in the window."""
    own = config.steps.get(index, StepConfig())
    return own.kind or config.kind, config.noise_level if own.noise_level is None else own.noise_level


def stochastic_steps(config: SamplerConfig, seed: int, iteration: int) -> tuple[int, ...]:
    """The steps that get noise, and are trained, in an iteration: the window without steps of noise 0."""
    return _with_noise(config, draw_window(config.window, config.num_steps, seed, iteration))


@dataclass(frozen=True)
class Plan:
    """How one rollout is sampled.

    Attributes:
        num_steps: Transformer evaluations.
        stochastic: W steps that get noise; empty: ODE.
        noise_level: Of all those steps, or of each.
        kind: Of all those steps, or of each.
        keep_mean: Keep transition means.
        chunk: Pictures sampled together.
        shared_noise: Members of a group start from the same noise.
        branch: Deterministic steps before the first stochastic one are run once for each prompt.
    """

    num_steps: int
    stochastic: Sequence[int] = ()
    noise_level: float | Sequence[float] = 0.0
    kind: Kind | Sequence[Kind] = "flow_sde"
    keep_mean: bool = False
    chunk: int = 16
    shared_noise: bool = False
    branch: bool = False

    @property
    def prefix(self) -> int:
        """Steps that are run once for each prompt."""
        return min(self.stochastic) if self.branch and self.stochastic else 0


def training_plan(config: SamplerConfig, seed: int, iteration: int, *, keep_mean: bool = False) -> Plan:
    """How the pictures of a training iteration are sampled."""
    steps = stochastic_steps(config, seed, iteration)
    return Plan(
        num_steps=config.num_steps,
        stochastic=steps,
        noise_level=[transition(config, index)[1] for index in steps],
        kind=[transition(config, index)[0] for index in steps],
        keep_mean=keep_mean,
        chunk=config.chunk,
        shared_noise=config.shared_noise,
        branch=config.branch,
    )


def check_sampler(config: SamplerConfig, algorithm: str, kinds: Sequence[str]) -> None:
    """Refuse what cannot be sampled, or what the algorithm cannot use.

    Args:
        config: The section `sampler`.
        algorithm: Name of the algorithm.
        kinds: Transitions that it is defined for.

    Raises:
        ValueError: Naming the key, its value, the rule and the remedy.
    """
    windows = possible_windows(config.window, config.num_steps)
    for index in config.steps:
        if not 0 <= index < config.num_steps - 1:
            raise ValueError(
                f"sampler.steps has step {index}: steps that can have noise are 0 to "
                f"{config.num_steps - 2} with sampler.num_steps = {config.num_steps}; the last is "
                f"deterministic. Give another step, or raise sampler.num_steps."
            )
    _check_transition(config.kind, config.noise_level, "sampler", algorithm, kinds)
    for index in config.steps:
        _check_transition(*transition(config, index), f"sampler.steps.{index}", algorithm, kinds)
    for window in windows:
        if not _with_noise(config, window):
            raise ValueError(
                f"sampler.steps gives every step of the window {window.start} to {window.stop - 1} noise 0: "
                f"it must leave at least one with noise. Raise a noise_level there, or change sampler.window."
            )
    if config.branch and not config.shared_noise:
        raise ValueError(
            "sampler.branch is True: it must not be without sampler.shared_noise, because members that share "
            "the steps before the window share the noise these begin with. Set sampler.shared_noise to true."
        )


def _with_noise(config: SamplerConfig, window: range) -> tuple[int, ...]:
    return tuple(index for index in window if transition(config, index)[1] > 0)


def _check_transition(kind: str, level: float, key: str, algorithm: str, kinds: Sequence[str]) -> None:
    if kind not in kinds:
        raise ValueError(
            f"{key}.kind is {kind!r}: it is not defined for algorithm {algorithm}; use "
            f"{' or '.join(kinds)}, or another algorithm."
        )
    if not 0 <= level < float("inf"):
        raise ValueError(
            f"{key}.noise_level is {level!r}: it must be a number, not negative; 0 is a step of the ODE."
        )
    if kind == "cps" and level > 1:
        raise ValueError(
            f"{key}.noise_level is {level!r}: it must be at most 1 with cps, where 1 is all noise; lower it."
        )
