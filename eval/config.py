"""The configuration of a comparison: frozen, typed, unknown keys are errors.

Nothing here is imported for type checkers only: the command line resolves annotations, and would load all of
diffusers to name one type.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from eval.metrics import Bootstrap
from eval.verdict import Targets
from flow_grpo.config import RewardConfig


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled: everything but the weights and the prompt.

    Attributes:
        num_steps: Denoising steps of the deterministic sampler.
        guidance_scale: Distilled guidance that the transformer is told.
        height: Pixels; a multiple of twice the VAE's reduction (16 for FLUX.1).
        width: Pixels; likewise.
        max_sequence_length: T5 tokens of a prompt; longer prompts are cut.
        seed: Seed of the starting noise.
    """

    num_steps: int = 28
    guidance_scale: float = 3.5
    height: int = 512
    width: int = 512
    max_sequence_length: int = 512
    seed: int = 0


BASE, TUNED, STEP = "base", "tuned", "step"
#: Names of models become names of folders.
_NAME = re.compile(r"[\w+-][\w .+@-]{0,59}")


@dataclass(frozen=True)
class ModelSpec:
    """One model of a comparison, or several: the checkpoints of a run.

    Attributes:
        name: In the record and on the pages, and of its folder of pictures; with `steps`, each checkpoint
            adds `@` and its iteration.
        lora: A LoRA folder or file; none, and no run_dir: the model without one.
        run_dir: A training run, whose LoRA is used, or with `steps` its checkpoints.
        steps: Iterations whose checkpoints are compared; all: every one that is there.
        weights: Of a checkpoint: averaged (the EMA, which a run validates and exports), or current, those
            that the optimizer holds.
        path: Another pipeline than the comparison's `model`.
        seed: Another seed of the noise than `sampling.seed`: the same model with it shows what noise alone
            does.
    """

    name: str = "tuned"
    lora: str | None = None
    run_dir: str | None = None
    steps: list[int] | Literal["all"] | None = None
    weights: Literal["averaged", "current"] = "averaged"
    path: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"models: the name {self.name!r} becomes a folder; use letters, digits, spaces and . + @ - _"
            )
        if self.lora is not None and self.run_dir is not None:
            raise ValueError(f"models: {self.name} has both lora and run_dir; leave one out")
        if self.steps is not None and self.run_dir is None:
            raise ValueError(f"models: {self.name} has steps but no run_dir; give the run that they are of")


@dataclass(frozen=True)
class Probe:
    """How the size of a model's velocity is measured against that of the base, see `eval.velocity`.

    Attributes:
        prompts: So many prompts, spread over the file; 0: it is not measured.
    """

    prompts: int = 8

    def __post_init__(self) -> None:
        if self.prompts < 0:
            raise ValueError(f"probe.prompts is {self.prompts}; it must be at least 0")


@dataclass(frozen=True)
class CompareConfig:
    """One comparison.

    Attributes:
        title: Heading of the pages.
        model: The base model: a FluxPipeline folder or hub name.
        prompts: Held-out prompts, in any format of `flow_grpo.prompts.read_prompts`.
        prompt_format: Format of the prompts; auto: told from the ending and the columns.
        run_dir: A training run's folder; gives its LoRA and its curves.
        lora: Another LoRA than the run's: a folder or a safetensors file.
        steps: Iterations of the run whose checkpoints are compared too, or all.
        models: What is compared, in this order, instead of base, steps and LoRA as above. The first is the
            reference; the headline is about the last.
        published: A file with published figures to print beside these, see `eval.published`.
        out: Where record, report and gallery are written; pictures and scores already there are used again.
        members: Pictures of each prompt, each from its own noise.
        max_prompts: Use only the first so many prompts; none: all.
        allow_duplicates: Accept equal texts in the prompt file.
        batch_size: Pictures sampled together.
        dtype: Of the model; auto: bfloat16 on a GPU, float32 on the CPU.
        device: Torch device; auto: the GPU if there is one.
        sampling: How pictures are sampled.
        probe: How the size of the velocity is measured.
        distance_clip: A CLIPModel folder; measures how far a model moved from the reference by its image
            embeddings too, beside pixels.
        reward: Where scores come from and what they weigh, as in training; held-out scorers go here too.
        targets: What the tuned model should reach, and what to warn of.
        bootstrap: How intervals are made.
    """

    title: str = "Base against tuned"
    model: str = "black-forest-labs/FLUX.1-dev"
    prompts: str = "prompts/flux_heldout.jsonl"
    prompt_format: Literal["auto", "txt", "jsonl", "geneval", "dpg", "drawbench", "partiprompts"] = "auto"
    run_dir: str | None = None
    lora: str | None = None
    steps: list[int] | Literal["all"] | None = None
    models: list[ModelSpec] = field(default_factory=list)
    published: str | None = None
    out: str = "runs/eval"
    members: int = 1
    max_prompts: int | None = None
    allow_duplicates: bool = False
    batch_size: int = 8
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    probe: Probe = field(default_factory=Probe)
    distance_clip: str | None = None
    reward: RewardConfig = field(default_factory=RewardConfig)
    targets: Targets = field(default_factory=Targets)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        for name in ("members", "batch_size", "max_prompts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        for spec in self.specs():  # refuses what does not go together
            assert spec.name
        names = Counter(spec.name.casefold() for spec in self.specs())
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"models: the name {twice[0]!r} stands there twice; give each its own")

    def specs(self) -> list[ModelSpec]:
        """What is compared, the reference first.

        Raises:
            ValueError: There is nothing to compare, or it is said in two ways.
        """
        if self.models:
            if self.lora is not None or self.steps is not None:
                raise ValueError("models is set, and lora or steps too; name them among the models")
            if len(self.models) < 2 and self.models[0].steps is None:
                raise ValueError("models has one entry; name the reference and at least one model to compare")
            return list(self.models)
        if self.lora is None and self.run_dir is None:
            raise ValueError(
                "neither lora nor run_dir nor models is set; give the folder of a training run or a LoRA file"
            )
        steps = [ModelSpec(STEP, run_dir=self.run_dir, steps=self.steps)] if self.steps is not None else []
        tuned = ModelSpec(TUNED, lora=self.lora, run_dir=None if self.lora else self.run_dir)
        return [ModelSpec(BASE), *steps, tuned]
