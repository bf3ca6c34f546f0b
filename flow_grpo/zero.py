"""ZeRO-2 by DeepSpeed: each process keeps its share of the adapters' gradients and of the optimizer's state.

DeepSpeed is driven by its engine, as accelerate prepares it, but not by accelerate's `backward`, which takes
the optimizer step before anyone could see whether the gradient is finite. What an update is, its rate and its
clip are the trainer's; DeepSpeed reduces the gradient of each micro-batch at once, to the process that keeps
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from flow_grpo.policy.base import Policy

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Elements of the gradient that DeepSpeed sends at a time, if its file says nothing: 128 MiB.
BUCKET = 2**25
#: The first with which two processes were seen to make the steps of one: 0.18.0 takes others without a word,
#: and 0.18.9 stops in its own code.
OLDEST = (0, 19)


def check_version(installed: str) -> None:
    """Refuse a DeepSpeed that would train something else.

    Raises:
        ValueError: It is older than `OLDEST`.
    """
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
        raise ValueError(
            f"deepspeed is {installed}: from 0.19 on it takes the steps that it is asked for; "
            f'pip install "deepspeed>=0.19,<0.20".'
        )


def check_plugin(plugin: Any) -> None:
    """Refuse what would be another optimizer or other adapters than the run's.

    Args:
        plugin: accelerate's DeepSpeedPlugin.

    Raises:
        ValueError: Naming the key of accelerate's or DeepSpeed's file, its value and what to use.
    """
    config = plugin.deepspeed_config
    zero = config.get("zero_optimization", {})
    if zero.get("stage") != 2:
        raise ValueError(
            f"accelerate's zero_stage is {zero.get('stage')}; use 2 (configs/accelerate/zero2.yaml), or to "
            f"split the base's weights FSDP2 (configs/accelerate/fsdp2.yaml)."
        )
    for key in ("offload_optimizer", "offload_param"):
        device = (zero.get(key) or {}).get("device", "none")
        if device not in (None, "none"):
            raise ValueError(
                f"accelerate's {key}_device is {device}; states stay on the GPUs: set it to none."
            )
    for key in ("fp16", "bf16"):
        if (config.get(key) or {}).get("enabled") is True:
            raise ValueError(
                f"DeepSpeed's {key} is enabled, which would round the adapters; disable it: model.dtype says "
                f"what the base is computed in."
            )


def use_torchs_exchange() -> None:
    """Keep DeepSpeed from compiling an exchange of its own for processes on the CPU: it takes a compiler and
    time, and a process that is killed meanwhile leaves a lock that all later ones wait for.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Partitioned:
    """`flow_grpo.stepper.Stepper` over a DeepSpeed engine; `policy.module` is the engine afterwards.

    Args:
        policy: Its adapters are trained; they stay the same objects.
        optimizer: AdamW over all of them; DeepSpeed gives it this process's share in place.
        clip: Largest norm of the gradient.
        accelerator: Of a launch with DeepSpeed.
    """

    whole = False

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, clip: float, accelerator: Accelerator
    ) -> None:
        self.parameters = dict(policy.trainable)
        self._main = accelerator.is_main_process
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config |= {
            "gradient_clipping": clip,
            "gradient_accumulation_steps": 1,
            "train_micro_batch_size_per_gpu": 1,  # accelerate wants to know; nobody reads it
        }
        # A buffer of as many float32; the default's is 2 GB.
        config["zero_optimization"].setdefault("reduce_bucket_size", BUCKET)
        self._engine, _ = accelerator.prepare(policy.module, optimizer)
        policy.module = self._engine
        self._zero: Any = self._engine.optimizer

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    @torch.no_grad()
    def reduce(self, right: torch.Tensor) -> tuple[float, bool]:
        norm = self._zero.scaled_global_norm()  # -1 where it is not finite
        wrong = (~right).to(norm)
        torch.distributed.all_reduce(wrong)
        size, failures = torch.stack([norm, wrong]).tolist()
        return (size, failures == 0) if size >= 0 else (float("nan"), False)

    def step(self, lr: float) -> None:
        for group in self._zero.param_groups:
            group["lr"] = lr
        self._engine.step()
        assert not self._zero.overflow, "the gradient was finite"

    @torch.no_grad()
    def tensors(self) -> dict[str, torch.Tensor]:
        """Whole tensors on the first process, nothing on the others."""
        state = self._optimizer.state.get(self._share, {})
        kept = {}
        for name, value in self.parameters.items():
            for kind, flat in state.items():
                whole = flat.clone() if flat.dim() == 0 else self._whole(value, flat)
                if self._main:
                    kept[f"{kind}/{name}"] = whole.cpu()
        return kept

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._zero.refresh_fp32_params()  # from the weights
        if not tensors:
            return
        share, state = self._share, {}
        for key, tensor in tensors.items():
            kind, name = key.split("/", 1)
            if tensor.dim() == 0:
                state[kind] = tensor.clone()
                continue
            flat = state.setdefault(kind, torch.zeros_like(share))
            mine = self.parameters[name]._hp_mapping  # type: ignore[attr-defined]
            if mine is not None:
                here, there = mine.hp_fragment_address, mine.lp_fragment_address
                piece = tensor.flatten().narrow(0, there.start, there.numel)
                flat.narrow(0, here.start, here.numel).copy_(piece)
        self._optimizer.state[share] = state

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """torch's, of this process's share."""
        optimizer: torch.optim.Optimizer = self._zero.optimizer
        return optimizer

    @property
    def _share(self) -> torch.Tensor:
        """This process's share of the weights, which is all that its optimizer knows."""
        share: torch.Tensor = self._optimizer.param_groups[0]["params"][0]
        return share

    def _whole(self, value: torch.nn.Parameter, flat: torch.Tensor) -> torch.Tensor:
        """A state of one parameter, put together from the processes that hold a piece of it."""
        whole = torch.zeros_like(value).flatten()
        mine = value._hp_mapping  # type: ignore[attr-defined]
        if mine is not None:
            here, there = mine.hp_fragment_address, mine.lp_fragment_address
            whole.narrow(0, there.start, there.numel).copy_(flat.narrow(0, here.start, here.numel))
        torch.distributed.all_reduce(whole)
        return whole.view_as(value)
