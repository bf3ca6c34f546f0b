"""The configuration, frozen and typed. `flow_grpo.cli` parses it; `flow_grpo.checks` has the rules of keys.

Defaults are the published FLUX.1-dev recipe for 48 prompts x 24 pictures; `configs/` holds complete files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from flow_grpo.advantage import AdvantageConfig
from flow_grpo.algorithms import grpo, guard, nft
from flow_grpo.constraint import Constraint
from flow_grpo.policy.flux import ModelConfig
from flow_grpo.regularize import RegularizerConfig
from flow_grpo.sampler import SamplerConfig as SamplerConfig
from flow_grpo.weighting import Ramp, weights_at


@dataclass(frozen=True)
class PromptsConfig:
    """Which prompts, and how many pictures of each.

    Attributes:
        train: Prompt file (see `flow_grpo.prompts.read_prompts`).
        validation: Held-out prompt file for validation during training; none: see held_back.
        held_back: Without a validation file, so many prompts, spread evenly over the training file, are
            validated on and never trained on. 0 and no file: no validation.
        per_iteration: Prompts in one iteration, over all processes; each pass over the file is in a new
            order.
        group_size: Pictures of each prompt in one iteration, compared with each other.
        allow_duplicates: Accept equal texts in a file; they still form separate groups.
    """

    train: str = "prompts/flux_train.jsonl"
    validation: str | None = None
    held_back: int = 0
    per_iteration: int = 48
    group_size: int = 24
    allow_duplicates: bool = False


@dataclass(frozen=True)
class RewardConfig:
    """Where scores come from and what they weigh.

    Attributes:
        weights: Dimension -> weight. Dimensions that are not named never enter the reward; they are logged.
        ramps: Dimension -> how its weight moves while training to the one in `weights`, e.g.
            {iqa: {start: 0.0, end: 30}}; see `flow_grpo.weighting.Ramp`.
        constraints: Dimension -> how far it may fall; it gets a weight of its own, just as large as that
            takes, e.g. {adherence: {max_relative_drop: 0.015}}; see `flow_grpo.constraint`.
        url: Address of a reward server (http://host:port), or several; or none, and `scorers` are run here.
        scorers: Scorers to run in this process, each a mapping with `name` and its options.
        token_file: File with the server's shared secret; without one, the variable REWARD_TOKEN. The secret
            itself is no key, because the configuration is written into the run directory.
        ca_file: Certificates (PEM) to trust an https server by, instead of those that the machine trusts.
        timeout: Seconds for one attempt at one request.
        max_outage: Seconds without a usable answer from any server; then the run stops with a checkpoint.
        batch_size: Pictures in one request.
        ready_timeout: Seconds to wait for the server when the run starts.
    """

    weights: dict[str, float] = field(default_factory=lambda: {"iaa": 1.0, "iqa": 1.0, "ista": 1.0})
    ramps: dict[str, Ramp] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    url: str | list[str] | None = None
    scorers: list[dict[str, Any]] | None = None
    token_file: str | None = None
    ca_file: str | None = None
    timeout: float = 120.0
    max_outage: float = 300.0
    batch_size: int = 32
    ready_timeout: float = 600.0

    def source(self) -> dict[str, Any]:
        """What `reward_plugin.client.build_rewards` takes."""
        experiment = ("weights", "ramps", "constraints", "ready_timeout")
        return {name: value for name, value in vars(self).items() if name not in experiment}

    def weights_at(self, iteration: int) -> dict[str, float]:
        """Dimension -> weight in an iteration, counted from 0."""
        return weights_at(self.weights, self.ramps, iteration)

    def rewarded(self) -> set[str]:
        """Dimensions with a weight other than 0 at some time."""
        return {name for name, weight in self.weights.items() if weight} | set(self.ramps)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and how a rollout is spent.

    Attributes:
        lr: Learning rate after warm-up.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Of AdamW.
        warmup: Optimizer steps over which the rate rises linearly from lr / warmup.
        schedule: constant, or cosine down to 0 at the last iteration.
        grad_clip: Largest norm of the gradient.
        updates_per_rollout: Optimizer steps an iteration; each uses another share of every group's members.
        micro_batch: (picture, step) pairs in one forward and backward pass of a process; gradients
            accumulate. auto: as many as fit into the GPU's memory, see `flow_grpo.policy.probe`; 16 without
            a GPU.
        ema_decay: Share of the averaged weights kept at each optimizer step; the average is validated and
            exported. 0 exports the weights themselves.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    grad_clip: float = 1.0
    updates_per_rollout: int = 2
    micro_batch: int | Literal["auto"] = 4
    ema_decay: float = 0.9

    @property
    def pairs(self) -> int:
        """`micro_batch` as a number, which it is from the moment that the model is loaded."""
        assert self.micro_batch != "auto", "flow_grpo.policy.probe.settled was not called"
        return self.micro_batch


@dataclass(frozen=True)
class ValidationConfig:
    """Scores on held-out prompts while training: averaged weights, ODE sampling, noise fixed by prompt and
    member.

    Attributes:
        every: Iterations between validations; the first is before training.
        num_steps: Transformer evaluations for a picture.
        members: Pictures for each prompt.
        max_prompts: Use only the first so many prompts; none: all.
    """

    every: int = 10
    num_steps: int = 28
    members: int = 1
    max_prompts: int | None = None


@dataclass(frozen=True)
class StopConfig:
    """Keep the best checkpoint by validation reward, among those that a held-out metric allows.

    Attributes:
        metric: Held-out dimension that must not fall, e.g. adherence; none: only the best reward counts.
        max_relative_drop: Largest allowed fall of the metric's validation mean, relative to before training.
        bounds: Further dimension -> largest allowed relative fall. If any of them, or the metric, is beyond
            its bound, the weights are not kept, and the validation counts towards stopping.
        patience: Stop after so many consecutive validations beyond a bound; 0 never stops.
        confidence: Stop only when the fall is beyond its bound with so much confidence, e.g. 0.95, by the
            paired differences of prompts; none: when the mean is. What is kept goes by means in either case.
        floors: Dimension -> largest allowed relative fall, for the choice of what to keep alone: with
            {iaa: 0.0} weights are kept only if iaa, rewarded or not, is at least what it was before training.
    """

    metric: str | None = None
    max_relative_drop: float = 0.02
    patience: int = 2
    floors: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    confidence: float | None = None

    def all_bounds(self) -> dict[str, float]:
        """Dimension -> largest relative fall before it counts towards stopping, the metric included."""
        metric = {} if self.metric is None else {self.metric: self.max_relative_drop}
        return {**metric, **self.bounds}


@dataclass(frozen=True)
class CheckpointConfig:
    """Attributes:
    every: Iterations between checkpoints.
    keep: How many of the newest are kept.
    """

    every: int = 10
    keep: int = 2


@dataclass(frozen=True)
class LogConfig:
    """metrics.jsonl and eval.jsonl are always written.

    Attributes:
        wandb: Track with wandb too, offline where there is no key.
        project: Name of the wandb project.
        samples_every: Iterations between contact sheets of rollout pictures; 0: none.
        samples: Pictures on a sheet.
    """

    wandb: bool = False
    project: str = "flow-grpo"
    samples_every: int = 10
    samples: int = 16


@dataclass(frozen=True)
class TrainConfig:
    """One run.

    Attributes:
        run_dir: Folder of the run's record; see README.
        seed: Of everything random.
        iterations: Rollouts to train on, in all (a resumed run goes on to this number).
        model: What is tuned.
        prompts: On which prompts.
        sampler: How pictures are sampled.
        reward: How they are scored.
        advantage: How scores become advantages.
        algorithm: Objective, see `flow_grpo.algorithms`.
        grpo: Its options where algorithm is grpo.
        guard: Its options where algorithm is guard.
        nft: Its options where algorithm is nft.
        regularizer: Terms that keep the model near its base.
        optimizer: How weights are updated.
        validation: Scores on held-out prompts during training.
        stop: Which checkpoint is kept and when to stop early.
        checkpoint: Full states for resuming.
        log: Tracking.
    """

    run_dir: str = "runs/train"
    seed: int = 0
    iterations: int = 300
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    algorithm: Literal["grpo", "guard", "nft"] = "grpo"
    grpo: grpo.Config = field(default_factory=grpo.Config)
    guard: guard.Config = field(default_factory=guard.Config)
    nft: nft.Config = field(default_factory=nft.Config)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)


def algorithm_config(config: TrainConfig) -> Any:
    """The options of the chosen algorithm."""
    return getattr(config, config.algorithm)
