"""What a configuration would run, computed without loading a model: the report of --dry-run.

Nothing in it is measured. Time is floating-point operations divided by an assumed share of the card's peak;
memory leaves out what decoding and the libraries take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flow_grpo.algorithms import ALGORITHMS
from flow_grpo.config import TrainConfig, algorithm_config
from flow_grpo.cost import ACTIVATION, BACKWARD, BYTES, FLUX, GIB, GPUS, Shape, forward_flop, lora_parameters
from flow_grpo.cost import read_shape as read_shape
from flow_grpo.sampler import training_plan
from flow_grpo.zero import BUCKET

#: Share of a card's dense bf16 peak that is assumed if nothing else is said.
MFU = 0.4


@dataclass(frozen=True)
class Plan:
    """Counts are means over the run's iterations, because a window may move.

    Attributes:
        images: Sampled in an iteration, over all processes.
        base_images: Sampled by the base besides, for constraints.
        steps: Stochastic steps, or sigmas that a picture is noised to, of a picture.
        forwards: Transformer evaluations of pictures in an iteration, without gradient.
        saved: Evaluations that branching spares; they are not in `forwards`.
        trained: (picture, step) pairs in an iteration, each a forward and a backward pass.
        optimizer_steps: In the whole run.
        trainable: Adapter parameters.
        pflop: Of an iteration, 10^15.
        memory: GiB of a process, by part.
    """

    images: int
    base_images: int
    steps: float
    forwards: float
    saved: float
    trained: float
    optimizer_steps: int
    trainable: int
    pflop: float
    memory: dict[str, float]


def make_plan(config: TrainConfig, shape: Shape, processes: int = 1, split: str = "none") -> Plan:
    """Count what one iteration does and what it needs; `split` as in `describe`."""
    model, prompts = config.model, config.prompts.per_iteration
    images = prompts * config.prompts.group_size
    steps, prefix = _steps(config)
    members = max((rule.base_members for rule in config.reward.constraints.values()), default=0)
    base_images = prompts * members
    saved = prefix * (images - prompts + (base_images - prompts if members else 0))
    extra = config.regularizer.needs_reference + (not ALGORITHMS[config.algorithm].Config.needs_trajectory)
    kept = config.advantage.keep_best + config.advantage.keep_worst
    # Examples without advantage are passed over, unless something else pulls at them.
    share = kept / config.prompts.group_size if kept and not extra else 1.0
    trained = images * steps * share
    forwards = (images + base_images) * config.sampler.num_steps - saved + images * steps * extra
    recomputed = 1 / model.gradient_checkpointing if model.gradient_checkpointing else 0.0
    guided = 2 if shape.kind != FLUX and model.guidance_scale > 1 else 1
    flop = guided * forward_flop(shape, _image_tokens(config, shape) + model.max_sequence_length)
    return Plan(
        images=images,
        base_images=base_images,
        steps=steps,
        forwards=forwards,
        saved=saved,
        trained=trained,
        optimizer_steps=config.iterations * config.optimizer.updates_per_rollout,
        trainable=lora_parameters(shape, model.lora.rank, model.lora.targets),
        pflop=flop * (forwards + trained * (1 + BACKWARD + recomputed)) / 1e15,
        memory=_memory(config, shape, images * steps / processes, recomputed, processes, split),
    )


def describe(
    config: TrainConfig,
    processes: int,
    prompts: int,
    held_out: int,
    gpu: str | None = None,
    mfu: float = MFU,
    split: str = "none",
) -> str:
    """The plan as text.

    Args:
        config: The run.
        processes: Number of processes it would run on.
        prompts: Number of training prompts.
        held_out: Number of validation prompts.
        gpu: Name in `flow_grpo.cost.GPUS` of the card of each process; none: no time is given.
        mfu: Share of the card's dense bf16 peak that is assumed to be reached.
        split: What processes share out: none, fsdp2 (the transformer's weights) or zero2 (the adapters'
            gradients and optimizer).
    """
    shape = read_shape(config.model.path)
    plan = make_plan(config, shape, processes, split)
    model, update = config.model, config.optimizer
    layers = f"{len(model.lora.targets)} kinds of layer" if model.lora.targets else "the recipe's layers"
    about = "" if shape.kind == FLUX else "about "
    weights = " + ".join(f"{weight:g} {name}" for name, weight in config.reward.weights.items())
    total = sum(plan.memory.values())
    parts = ", ".join(f"{name} {size:.2g}" for name, size in plan.memory.items())
    over = "" if split == "none" else f", {split} over {processes}"
    spared = f" ({_number(plan.saved)} more without branching)" if plan.saved else ""
    compared = f", and {plan.base_images:,} of the base for constraints" if plan.base_images else ""
    lines = {
        "model": model.path + ("" if shape.known else " (not on this machine: sizes of FLUX.1-dev)"),
        "pictures": f"{model.height} x {model.width}, {model.dtype}",
        "trained": f"{about}{plan.trainable:,} float32 parameters: LoRA rank {model.lora.rank} on {layers}",
        "prompts": f"{prompts:,} to train on, {held_out:,} held out",
        "an iteration": f"{config.prompts.per_iteration} prompts x {config.prompts.group_size} members "
        f"= {plan.images:,} images{compared}",
        "sampling": _sampling(config, plan),
        "forwards": f"{_number(plan.forwards)} without gradient{spared} and {_number(plan.trained)} with, an "
        f"iteration",
        "updates": f"{update.updates_per_rollout} an iteration, "
        f"each of {_micro_batches(config, plan, processes)} on {processes} processes",
        "reward": f"{weights}, from {config.reward.url or 'scorers in this process'}",
        "cost": f"{_figure(plan.pflop)} PFLOP an iteration, {_figure(plan.pflop / plan.images)} an image "
        f"(VAE, text encoders, reward model and validation not counted)",
        "memory": f"about {total:.3g} GiB a process{over}: {parts} (decoding not counted)",
        "the run": f"{config.iterations:,} iterations, {plan.optimizer_steps:,} optimizer steps, "
        f"{plan.images * config.iterations:,} images, {_figure(plan.pflop * config.iterations)} PFLOP",
    }
    if gpu is not None:
        lines["time"] = _time(plan, config, processes, gpu, mfu)
    lines["all of it"] = "computed, nothing measured"
    return "\n".join(f"{name:>12}  {text}" for name, text in lines.items())


def _steps(config: TrainConfig) -> tuple[float, float]:
    """Trained steps of a picture, and steps that a group shares, as means over the run's iterations."""
    algorithm = algorithm_config(config)
    if not algorithm.needs_trajectory:
        return algorithm.count(config.sampler.num_steps), 0
    plans = [training_plan(config.sampler, config.seed, index) for index in range(config.iterations)]
    count = len(plans)
    return sum(len(plan.stochastic) for plan in plans) / count, sum(plan.prefix for plan in plans) / count


def _image_tokens(config: TrainConfig, shape: Shape) -> int:
    unit = 2 * shape.reduction
    return (config.model.height // unit) * (config.model.width // unit)


def _memory(
    config: TrainConfig, shape: Shape, pairs: float, recomputed: float, processes: int, split: str
) -> dict[str, float]:
    """GiB of a process that keeps so many (picture, step) pairs of a rollout."""
    model, algorithm = config.model, algorithm_config(config)
    blocks = shape.blocks + shape.single_blocks
    resident = {
        name: count
        for name, count in shape.parameters.items()
        if model.text_cache is None or not name.startswith("text_encoder")
    }
    # Of a recomputed block the input is kept, 2 of the 70 bytes, and one at a time is there whole.
    kept_blocks = min(blocks, blocks * (1 - recomputed) + (1 + recomputed * blocks / 35) * (recomputed > 0))
    copies = (
        2 + config.regularizer.needs_reference + algorithm.needs_old_mean + (not algorithm.needs_trajectory)
    )
    image_tokens = _image_tokens(config, shape)
    tokens = image_tokens + model.max_sequence_length
    memory = {
        **_weights(config, shape, resident, processes, split),
        "rollout": pairs * image_tokens * shape.channels * 4 * copies,
    }
    if isinstance(config.optimizer.micro_batch, int):
        of_one = tokens * shape.width * kept_blocks * ACTIVATION
        memory["activations"] = config.optimizer.micro_batch * of_one
    return {name: size / GIB for name, size in memory.items()}


def _weights(
    config: TrainConfig, shape: Shape, resident: Mapping[str, float], processes: int, split: str
) -> dict[str, float]:
    """Bytes of a process for the base and for what is trained."""
    model = {name: count * BYTES[config.model.dtype] for name, count in resident.items()}
    trainable = 4 * lora_parameters(shape, config.model.lora.rank, config.model.lora.targets)
    # Weights, average, best, and what a policy of NFT samples with; gradients and AdamW's two.
    kept, stepped = 3 + (not algorithm_config(config).needs_trajectory), 3.0
    adapters = "adapters, their gradients, AdamW and averages"
    if split == "zero2":
        # Weights in the optimizer once more, and a buffer to send gradients from.
        return {
            "model": sum(model.values()),
            adapters: trainable * (kept + (stepped + 1) / processes) + 4 * BUCKET,
        }
    if split == "fsdp2":
        whole = model["transformer"]
        model["transformer"] = whole / processes
        # One is computed while the next comes; in FLUX those of two streams are larger than the others.
        block = max(
            whole / (shape.blocks + shape.single_blocks),
            36 * shape.width**2 * BYTES[config.model.dtype] * bool(shape.single_blocks),
        )
        model["fetched"] = 2 * block
    return {"model": sum(model.values()), adapters: trainable * (kept + stepped)}


def _sampling(config: TrainConfig, plan: Plan) -> str:
    sampler = config.sampler
    if not algorithm_config(config).needs_trajectory:
        return f"{sampler.num_steps} steps of the ODE; pictures noised to {_number(plan.steps)} sigmas each"
    mixed = f", otherwise on steps {sorted(sampler.steps)}" if sampler.steps else ""
    return (
        f"{sampler.num_steps} steps, {_number(plan.steps)} of them ({sampler.window.kind}) "
        f"with {sampler.kind} noise {sampler.noise_level:g}{mixed}"
    )


def _micro_batches(config: TrainConfig, plan: Plan, processes: int) -> str:
    size = config.optimizer.micro_batch
    if not isinstance(size, int):
        return "micro-batches sized by memory"
    pairs = plan.trained / processes / config.optimizer.updates_per_rollout
    return f"{math.ceil(pairs / size)} micro-batches of {size}"


def _time(plan: Plan, config: TrainConfig, processes: int, gpu: str, mfu: float) -> str:
    card = GPUS[gpu]
    seconds = plan.pflop * 1e3 / (card.tflops * mfu * processes)
    need, there = sum(plan.memory.values()), card.memory * 1e9 / GIB
    fits = f"fits its {there:.0f} GiB" if need <= there else f"does NOT fit its {there:.0f} GiB"
    rate = "" if config.model.dtype != "float32" else "; model.dtype float32 is several times slower"
    return (
        f"{_figure(seconds)} s an iteration and {_figure(plan.images / seconds)} images/s "
        f"on {processes} x {gpu}, assuming {mfu:.0%} of {card.tflops:g} TFLOP/s "
        f"(dense bf16 peak{rate}); {fits}"
    )


def _number(value: float) -> str:
    """A count, with decimals only where it is a mean of different ones."""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,.1f}"


def _figure(value: float) -> str:
    """Three digits, or as many as the number has before its point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
