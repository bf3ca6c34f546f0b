"""The configuration of a training, frozen and typed; defaults are the published recipe.

What the paper leaves out is from its training code: the loss is summed over the batch, AdamW has betas 0.9
and 0.98 and eps 1e-6, the cosine ends at 1e-6, and a step adds up the losses of a batch of every task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Task: TypeAlias = Literal["img_2afc", "it_2afc", "text_2afc", "iqa"]
TASKS: tuple[Task, ...] = get_args(Task)
#: The linear layers of a CLIP vision block, by their name in transformers.
LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]
Format: TypeAlias = Literal["peft", "merged", "published"]


@dataclass(frozen=True)
class SourceConfig:
    """Questions of one data set.

    Attributes:
        manifest: JSONL file of frozen questions, see docs/unisim_training.md.
        root: Folder below which the pictures that it names lie.
    """

    manifest: str
    root: str


@dataclass(frozen=True)
class QuestionsConfig:
    """Data sets by task; a task without any is left out. Those of a task are drawn from as one.

    Attributes:
        img_2afc: Which of two pictures is closer to a third?
        it_2afc: Which of two pictures fits a text better?
        text_2afc: Which of two texts fits a picture better?
        iqa: Which of two pictures is of higher quality?
    """

    img_2afc: tuple[SourceConfig, ...] = ()
    it_2afc: tuple[SourceConfig, ...] = ()
    text_2afc: tuple[SourceConfig, ...] = ()
    iqa: tuple[SourceConfig, ...] = ()

    def by_task(self) -> dict[Task, tuple[SourceConfig, ...]]:
        """The tasks that have data sets, in the order of `TASKS`."""
        every: Mapping[Task, tuple[SourceConfig, ...]] = {task: getattr(self, task) for task in TASKS}
        return {task: sources for task, sources in every.items() if sources}


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of the vision tower.

    Attributes:
        rank: Of each layer's pair of matrices.
        alpha: What the pair adds is scaled by alpha / rank.
        dropout: Share of a layer's inputs that its adapter does not see while it trains, 0 to below 1.
        targets: Linear layers of every block that get one.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.2
    targets: tuple[str, ...] = LAYERS


@dataclass(frozen=True)
class ModelConfig:
    """The CLIP to start from.

    Attributes:
        path: Folder or hub id of a transformers `CLIPModel` with tokenizer and preprocessing.
        revision: Branch, tag or commit of a hub id.
        dtype: Forward and backward passes are computed in; weights and optimizer are float32. auto: bfloat16
            on a GPU, float32 on the CPU.
        gradient_checkpointing: Compute the vision tower's activations again in the backward pass: a third
            more time, a fraction of the memory.
        train_projection: Train the visual projection as well, whole, as published; else it is locked.
        lora: Adapters of the vision tower. The text tower is always frozen.
    """

    path: str = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    revision: str | None = None
    dtype: Dtype = "auto"
    gradient_checkpointing: bool = False
    train_projection: bool = True
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Attributes:
        train: Questions to train on.
        batch: Questions of each task in a step, over all processes; a multiple of the processes.
        quality_text: What `iqa` compares pictures with.
        workers: Threads of a process that open pictures ahead of the model.
        prefetch: Steps that they may be ahead.
    """

    train: QuestionsConfig = field(default_factory=QuestionsConfig)
    batch: int = 32
    quality_text: str = "A high-quality photo."
    workers: int = 8
    prefetch: int = 2


@dataclass(frozen=True)
class LossConfig:
    """The hinge on the difference of two cosines.

    Attributes:
        margin: By which the right choice has to lead; cosines are in [-1, 1].
        reduction: sum over a task's batch, as published, or mean; the tasks' losses are added.
    """

    margin: float = 0.05
    reduction: Literal["sum", "mean"] = "sum"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Attributes:
        lr: Highest learning rate.
        min_lr: Where the cosine ends.
        warmup: Steps of linear warm-up.
        weight_decay: Of matrices; vectors have none, as published (with LoRA all that trains is matrices).
        beta1: Decay of the mean gradient.
        beta2: Decay of the mean squared gradient.
        eps: Added to its root.
        grad_clip: Largest norm of the gradient; null: none, as published.
        micro_batch: Questions of each task in one forward pass of a process; null: all of them. A smaller one
            takes less memory and changes the gradient by rounding alone.
    """

    lr: float = 5e-6
    min_lr: float = 1e-6
    warmup: int = 500
    weight_decay: float = 0.35
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    grad_clip: float | None = None
    micro_batch: int | None = None


@dataclass(frozen=True)
class ValidationConfig:
    """Accuracy on questions that are not trained on.

    Attributes:
        questions: Data sets by task; none: no validation.
        every: Steps between two; there is one before the first step and one after the last.
        batch: Questions in one forward pass of a process.
        max_questions: Of each data set, the first so many; null: all.
    """

    questions: QuestionsConfig = field(default_factory=QuestionsConfig)
    every: int = 1000
    batch: int = 64
    max_questions: int | None = None


@dataclass(frozen=True)
class CheckpointConfig:
    """Attributes:
    every: Steps between two checkpoints.
    keep: How many are kept, the newest.
    """

    every: int = 500
    keep: int = 2


@dataclass(frozen=True)
class TrainConfig:
    """A training of UniSim.

    Attributes:
        run_dir: Everything that the run writes.
        seed: Of the adapters, the order of questions and dropout.
        steps: Optimizer steps; 12,500 of 32 questions are the published 400,000 of each task.
        model: What is trained.
        data: On what.
        loss: With which loss.
        optimizer: By which steps.
        validation: How it is measured.
        checkpoint: How often it is saved.
        export: Formats that the trained weights are written in at the end, see docs/unisim_training.md.
    """

    run_dir: str
    seed: int = 0
    steps: int = 12_500
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: tuple[Format, ...] = ("peft", "published")
