"""What the launch says about sharing one model out over processes, and doing so.

There are three kinds, by accelerate's distributed_type. MULTI_GPU (or NO, MULTI_CPU): every process holds
everything. FSDP: each holds a share of the frozen base, which is where the memory is, and fetches a block's
weights from the others when it computes it; adapters, averages and optimizer are whole, so nothing that is
saved or exported knows of it. DEEPSPEED: the base is whole, and ZeRO-2 shares out gradients and optimizer of
the adapters (`flow_grpo.zero`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from flow_grpo.config import OptimizerConfig
from flow_grpo.pace import is_split
from flow_grpo.policy.base import Policy
from flow_grpo.stepper import Replicated, Stepper
from flow_grpo.zero import Partitioned, check_plugin, check_version, use_torchs_exchange

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Fields of accelerate's FSDP plugin that would do what this trainer does otherwise, or has not been tried
#: with -> what to use.
REFUSED = {
    "activation_checkpointing": "use model.gradient_checkpointing",
    "cpu_offload": "weights stay on the GPUs; use more of them",
}


def settle_kind(accelerator: Accelerator) -> None:
    """Take from the launch how the model is shared out, and refuse what cannot be trained with.

    accelerate leaves its plugins aside where processes run on the CPU; torch and DeepSpeed do not mind.

    Raises:
        ValueError: Naming what is asked for and what to use.
    """
    from accelerate.utils import (
        DeepSpeedPlugin,
        DistributedType,
        FullyShardedDataParallelPlugin,
        disable_fsdp_ram_efficient_loading,
    )

    # The launcher's default. transformers would then load text encoders in the first process alone, and leave
    # those of the others without their weights.
    disable_fsdp_ram_efficient_loading()
    state: Any = accelerator.state
    if state.distributed_type is DistributedType.MULTI_CPU and _asked("FSDP"):
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
    if state.distributed_type is DistributedType.MULTI_CPU and _asked("DEEPSPEED"):
        state.distributed_type, state.deepspeed_plugins = DistributedType.DEEPSPEED, DeepSpeedPlugin()
        state.deepspeed_plugins.select(_from_accelerator_state=True)
        use_torchs_exchange()
    check_kind(
        state.distributed_type.value,
        state.fsdp_plugin if state.distributed_type is DistributedType.FSDP else None,
        state.deepspeed_plugin if state.distributed_type is DistributedType.DEEPSPEED else None,
    )


def check_kind(kind: str, fsdp: Any = None, deepspeed: Any = None) -> None:
    """Refuse a launch that this trainer cannot be part of.

    Args:
        kind: Value of accelerate's DistributedType.
        fsdp: accelerate's FullyShardedDataParallelPlugin, for FSDP.
        deepspeed: accelerate's DeepSpeedPlugin, for DEEPSPEED.

    Raises:
        ValueError: Naming the key of accelerate's file, its value and what to use.
    """
    if kind in ("MEGATRON_LM", "XLA"):
        raise ValueError(
            f"accelerate's distributed_type is {kind}; use MULTI_GPU, FSDP or DEEPSPEED, as in "
            f"configs/accelerate/."
        )
    if fsdp is not None:
        if fsdp.fsdp_version != 2:
            raise ValueError(
                f"accelerate's fsdp_version is {fsdp.fsdp_version}: it flattens frozen weights and adapters "
                f"into one; use 2 (configs/accelerate/fsdp2.yaml)."
            )
        for name, remedy in REFUSED.items():
            value = getattr(fsdp, name)
            if value and type(value).__name__ != "OffloadPolicy":
                key = {"cpu_offload": "offload_params"}.get(name, name)
                raise ValueError(f"accelerate's fsdp_{key} is true; {remedy}, and set it to false.")
    if deepspeed is not None:
        check_version(version("deepspeed"))
        check_plugin(deepspeed)


def sharing(accelerator: Accelerator) -> str | None:
    """How the launch shares the model out, for the log; None where every process holds all of it."""
    of = f"each of {accelerator.num_processes} processes holds a share of"
    told = {
        "FSDP": f"FSDP2: {of} the base's weights",
        "DEEPSPEED": f"ZeRO-2: {of} the adapters' gradients and optimizer",
    }
    return told.get(accelerator.distributed_type.value)


def launched_split() -> str:
    """What a launch asks to share out, before anything has been started; see `flow_grpo.plan.describe`."""
    return "fsdp2" if _asked("FSDP") else "zero2" if _asked("DEEPSPEED") else "none"


def distribute(policy: Policy, accelerator: Accelerator) -> None:
    """Share the model's weights out as the launch says.

    Adapters are the same objects before and after, and equal on all processes.
    """
    if is_split(accelerator):
        shard_base(policy, accelerator.device, accelerator.state.fsdp_plugin)
    if accelerator.num_processes > 1:
        for value in policy.trainable.values():
            torch.distributed.broadcast(value.data, src=0)  # they may have been read from a file


def build_stepper(policy: Policy, settings: OptimizerConfig, accelerator: Accelerator) -> Stepper:
    """What takes the optimizer steps of all processes; DeepSpeed takes over `policy.module`."""
    optimizer = torch.optim.AdamW(
        policy.trainable.values(),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    if accelerator.distributed_type.value == "DEEPSPEED":
        return Partitioned(policy, optimizer, settings.grad_clip, accelerator)
    return Replicated(optimizer, policy.trainable, settings.grad_clip, accelerator)


def shard_base(policy: Policy, device: torch.device, plugin: Any) -> None:
    """Leave each process its share of every frozen weight; blocks are fetched one by one when computed.

    Args:
        policy: Its transformer may lie on the CPU; no more than one block of it is whole on the device.
        device: Of this process.
        plugin: accelerate's FullyShardedDataParallelPlugin: `reshard_after_forward` (false keeps weights that
            a forward pass has fetched for its backward pass) and, in place of the model's own blocks,
            `transformer_cls_names_to_wrap` are used.

    Raises:
        ValueError: The model has no such block.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module: Any = policy.module
    for value in policy.trainable.values():
        value.data = value.data.to(device)
    names = plugin.transformer_cls_names_to_wrap or module._no_split_modules
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(policy.trainable.values())}
    for block in blocks(module, names):
        fully_shard(block, reshard_after_forward=plugin.reshard_after_forward, **options)
    fully_shard(module, **options)


def blocks(module: torch.nn.Module, names: Sequence[str]) -> list[torch.nn.Module]:
    """The parts of a model that are fetched as one.

    Args:
        module: A transformer.
        names: Of the parts' classes.

    Raises:
        ValueError: One of them does not occur.
    """
    found = [part for part in module.modules() if type(part).__name__ in names]
    absent = sorted(set(names) - {type(part).__name__ for part in found})
    if absent:
        raise ValueError(
            f"accelerate's fsdp_transformer_layer_cls_to_wrap names {', '.join(absent)}, which the model has "
            f"not; leave it out: its own blocks are taken."
        )
    return found


def _asked(what: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"
