"""LoRA on a diffusers model: injected with peft, trained in float32, exported for any reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from flow_grpo.files import replacing, write_tensors

ADAPTER = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters.

    Attributes:
        rank: Inner dimension.
        alpha: The adapter's output is scaled by alpha / rank.
        init: gaussian: A normal with std 1 / rank; kaiming: peft's default, A Kaiming uniform. B is 0 with
            both.
        targets: Names of linear layers, matched at the end of the module's path; none: the policy's recipe.
    """

    rank: int = 64
    alpha: float = 128.0
    init: Literal["gaussian", "kaiming"] = "gaussian"
    targets: list[str] | None = None


def add_lora(
    module: torch.nn.Module, config: LoraConfig, targets: Sequence[str], seed: int
) -> dict[str, torch.nn.Parameter]:
    """Freeze `module`, inject adapters, and return their parameters by name, all float32.

    Adapters are float32 on a bf16 base too: an update of 1e-4 of a weight is lost in bf16.
    """
    import peft

    module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        init = "gaussian" if config.init == "gaussian" else True
        settings = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, init_lora_weights=init, target_modules=list(targets)
        )
        try:
            module.add_adapter(settings, ADAPTER)  # type: ignore[operator]
        except ValueError as error:
            raise ValueError(
                f"model.lora.targets {list(targets)} match no layer of the model: {error}"
            ) from error
    parameters = {name: value for name, value in module.named_parameters() if "lora_" in name}
    for value in parameters.values():
        value.data = value.data.float()
        value.requires_grad_(True)
    return parameters


@contextmanager
def adapters_off(module: torch.nn.Module) -> Iterator[None]:
    """Within it the module computes what its base alone would.

    peft's own switch also clears `requires_grad` of the adapters, which must not happen between a forward and
    its backward pass, so only the flag that the layers look at is set.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def export_lora(
    folder: Path, weights: Mapping[str, torch.Tensor], config: LoraConfig, component: str
) -> Path:
    """Write `pytorch_lora_weights.safetensors`, whole or not at all.

    alpha / rank is multiplied into B, and the file carries no alpha: every reader takes a missing alpha for
    the rank, while not every reader knows the metadata key in which diffusers would put it.
    """
    scale = config.alpha / config.rank
    tensors = {}
    for name, value in weights.items():
        key = f"{component}.{name.replace(f'.{ADAPTER}.', '.')}"
        factor = scale if ".lora_B." in name else 1.0
        tensors[key] = (value.detach().float().cpu() * factor).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / LORA_FILE) as temporary:
        write_tensors(temporary, tensors)
    return folder / LORA_FILE
