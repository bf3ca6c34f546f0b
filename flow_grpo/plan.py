"""What a configuration would run, computed without loading a model: the report of --dry-run.

Cost model, per transformer forward of n = image + text tokens, width d, L blocks of either kind (each has 12
d² of linear weights for a token): 24 n d² L for the linear layers and 4 n² d L for attention. Forward and
backward into LoRA on a frozen base cost 2.1 forwards: gradients of activations, none of base weights.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from flow_grpo.config import TrainConfig, algorithm_config
from flow_grpo.window import draw_window

BACKWARD = 1.1
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Activations kept for the backward pass, bytes for each token, block and unit of width: 34 of a 16-bit block
#: without attention scores (arXiv 2205.05198), and 36 of float32 copies at the adapters' inputs.
ACTIVATION = 70
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """Sizes of a pipeline.

    Attributes:
        blocks: Two-stream transformer blocks.
        single_blocks: One-stream blocks.
        width: Of the transformer.
        channels: Of a packed latent token.
        reduction: Of the VAE.
        parameters: Of all components together.
        known: False where the numbers are FLUX.1-dev's, because the model is not on this machine.
    """

    blocks: int = 19
    single_blocks: int = 38
    width: int = 3072
    channels: int = 64
    reduction: int = 8
    parameters: float = 11.90e9 + 4.76e9 + 0.12e9 + 0.08e9
    known: bool = False


@dataclass(frozen=True)
class Plan:
    """Attributes:
    images: Sampled in an iteration, over all processes.
    forwards: Transformer evaluations of pictures in an iteration, without gradient.
    trained: (picture, step) pairs in an iteration, each a forward and a backward pass.
    optimizer_steps: In the whole run.
    trainable: Adapter parameters.
    pflop: Of an iteration, 10^15.
    memory: GiB of a process, by part.
    """

    images: int
    forwards: int
    trained: int
    optimizer_steps: int
    trainable: int
    pflop: float
    memory: dict[str, float]


def read_shape(path: str) -> Shape:
    """Sizes of a pipeline folder, or FLUX.1-dev's where there is no such folder."""
    folder = Path(path)
    if not (folder / "transformer" / "config.json").is_file():
        return Shape()
    transformer = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    return Shape(
        blocks=transformer["num_layers"],
        single_blocks=transformer.get("num_single_layers", 0),
        width=transformer["num_attention_heads"] * transformer["attention_head_dim"],
        channels=transformer["in_channels"],
        reduction=2 ** (len(vae.get("block_out_channels") or vae["dim_mult"]) - 1),
        parameters=sum(_count(file) for file in folder.glob("*/*.safetensors")),
        known=True,
    )


def forward_flop(shape: Shape, tokens: int) -> float:
    """Floating-point operations of one transformer forward of one picture."""
    blocks = shape.blocks + shape.single_blocks
    return blocks * (24 * tokens * shape.width**2 + 4 * tokens**2 * shape.width)


def lora_parameters(shape: Shape, rank: int) -> int:
    """Adapter parameters under the recipe's targets."""
    # Two-stream block: 8 square layers and 2 feed-forwards of d -> 4d -> d; one-stream block: q, k and v.
    return rank * shape.width * (36 * shape.blocks + 6 * shape.single_blocks)


def make_plan(config: TrainConfig, shape: Shape, processes: int = 1) -> Plan:
    """Count what one iteration does and what it needs."""
    images = config.prompts.per_iteration * config.prompts.group_size
    window = len(draw_window(config.sampler.window, config.sampler.num_steps, config.seed, 0))
    unit = 2 * shape.reduction
    image_tokens = (config.model.height // unit) * (config.model.width // unit)
    tokens = image_tokens + config.model.max_sequence_length
    trained = images * window
    forwards = images * config.sampler.num_steps + trained * config.regularizer.needs_reference
    recomputed = 1 / config.model.gradient_checkpointing if config.model.gradient_checkpointing else 0.0
    backward = BACKWARD + recomputed
    trainable = lora_parameters(shape, config.model.lora.rank)
    width, blocks = shape.width, shape.blocks + shape.single_blocks
    # Of a recomputed block the input is kept, 2 of the 70 bytes, and one at a time is there whole.
    kept_blocks = min(blocks, blocks * (1 - recomputed) + (1 + recomputed * blocks / 35) * (recomputed > 0))
    micro_batch = config.optimizer.micro_batch
    copies = 2 + config.regularizer.needs_reference + algorithm_config(config).needs_old_mean
    memory = {
        "model": shape.parameters * BYTES[config.model.dtype],
        "adapters, gradients, AdamW, average": trainable * 4 * 5,
        "rollout": trained / processes * image_tokens * shape.channels * 4 * copies,
        "activations": (1 if micro_batch == "auto" else micro_batch)
        * tokens
        * width
        * kept_blocks
        * ACTIVATION,
    }
    return Plan(
        images=images,
        forwards=forwards,
        trained=trained,
        optimizer_steps=config.iterations * config.optimizer.updates_per_rollout,
        trainable=trainable,
        pflop=forward_flop(shape, tokens) * (forwards + trained * (1 + backward)) / 1e15,
        memory={name: size / GIB for name, size in memory.items()},
    )


def describe(config: TrainConfig, processes: int, prompts: int, held_out: int) -> str:
    """The plan as text.

    Args:
        config: The run.
        processes: Number of processes it would run on.
        prompts: Number of training prompts.
        held_out: Number of validation prompts.
    """
    shape = read_shape(config.model.path)
    plan = make_plan(config, shape, processes)
    model, sampler, update = config.model, config.sampler, config.optimizer
    layers = f"{len(model.lora.targets)} kinds of layer" if model.lora.targets else "the recipe's layers"
    pairs = plan.trained / processes / update.updates_per_rollout
    micro_batches = (
        "micro-batches sized by memory (counted as 1 here)"
        if update.micro_batch == "auto"
        else f"{math.ceil(pairs / update.micro_batch)} micro-batches of {update.micro_batch}"
    )
    weights = " + ".join(f"{weight:g} {name}" for name, weight in config.reward.weights.items())
    parts = ", ".join(f"{name} {size:.2g}" for name, size in plan.memory.items())
    lines = {
        "model": model.path + ("" if shape.known else " (not on this machine: sizes of FLUX.1-dev)"),
        "pictures": f"{model.height} x {model.width}, {model.dtype}",
        "trained": f"{plan.trainable:,} float32 parameters: LoRA rank {model.lora.rank} on {layers}",
        "prompts": f"{prompts:,} to train on, {held_out:,} held out",
        "an iteration": f"{config.prompts.per_iteration} prompts x {config.prompts.group_size} members "
        f"= {plan.images:,} images",
        "sampling": f"{sampler.num_steps} steps, "
        f"{plan.trained // plan.images} of them ({sampler.window.kind}) "
        f"with {sampler.kind} noise {sampler.noise_level:g}",
        "forwards": f"{plan.forwards:,} without gradient and {plan.trained:,} with, an iteration",
        "updates": f"{update.updates_per_rollout} an iteration, "
        f"each of {micro_batches} on {processes} processes",
        "reward": f"{weights}, from {config.reward.url or 'scorers in this process'}",
        "cost": f"{plan.pflop:.3g} PFLOP an iteration, {plan.pflop / plan.images:.3g} an image "
        f"(VAE, text encoders and reward model not counted)",
        "memory": f"about {sum(plan.memory.values()):.3g} GiB a process: {parts}",
        "the run": f"{config.iterations:,} iterations, {plan.optimizer_steps:,} optimizer steps, "
        f"{plan.images * config.iterations:,} images, {plan.pflop * config.iterations:,.3g} PFLOP",
    }
    return "\n".join(f"{name:>12}  {text}" for name, text in lines.items())


def _count(file: Path) -> float:
    """Elements in a safetensors file, from its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
