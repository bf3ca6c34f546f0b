"""LoRA on a diffusers model: injected with peft, trained in float32, exported for any reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from flow_grpo.policy.lora_files import LORA_FILE as LORA_FILE
from flow_grpo.policy.lora_files import Adapter, find_adapter, read_adapter, write_diffusers, write_peft

ADAPTER = "default"
RANDOM = ("gaussian", "kaiming")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters.

    Attributes:
        rank: Inner dimension.
        alpha: The adapter's output is scaled by alpha / rank.
        init: gaussian: A normal with std 1 / rank; kaiming: peft's default, A Kaiming uniform. B is 0 with
            both. Otherwise a path: go on from that adapter (a folder or file in diffusers' or peft's format),
            on its layers and with its rank, whatever scale it was trained with; the reference of a KL is
            still the base without it.
        targets: Names of linear layers, matched at the end of the module's path; none: the policy's recipe,
            or the layers of the adapter in `init`.
        export_peft: Beside pytorch_lora_weights.safetensors, which diffusers loads, write peft/ in peft's
            format.
    """

    rank: int = 64
    alpha: float = 128.0
    init: str = "gaussian"
    targets: list[str] | None = None
    export_peft: bool = False


def check_init(init: str) -> None:
    """Refuse a `model.lora.init` that is nothing, before anything is loaded.

    Raises:
        ValueError: It is neither a name nor the path of an adapter.
    """
    if init in RANDOM:
        return
    try:
        find_adapter(init)
    except ValueError as error:
        raise ValueError(f"model.lora.init is {init!r}, neither {' nor '.join(RANDOM)}; {error}") from error


def add_lora(
    module: torch.nn.Module,
    config: LoraConfig,
    targets: Sequence[str],
    seed: int,
    exclude: Sequence[str] = (),
) -> dict[str, torch.nn.Parameter]:
    """Freeze `module`, inject adapters, and return their parameters by name, all float32.

    Adapters are float32 on a bf16 base too: an update of 1e-4 of a weight is lost in bf16.

    Args:
        module: A diffusers transformer.
        config: The adapters.
        targets: The recipe's layers, where `config` names none.
        seed: Of the initialisation.
        exclude: Paths of layers without influence on the prediction. Adapters there would never get a
            gradient, which stops DistributedDataParallel.

    Raises:
        ValueError: No layer matches, or the adapter to start from does not fit.
    """
    import peft

    check_init(config.init)
    start = None if config.init in RANDOM else _start(config, exclude)
    targets = config.targets or (targets if start is None else list(start))
    module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            init_lora_weights=config.init == "kaiming" or "gaussian",
            target_modules=list(targets),
            exclude_modules=list(exclude) or None,
        )
        try:
            module.add_adapter(settings, ADAPTER)  # type: ignore[operator]
        except ValueError as error:
            raise ValueError(
                f"model.lora.targets {list(targets)[:8]} match no layer of the model: {error}"
            ) from error
    parameters = {name: value for name, value in module.named_parameters() if "lora_" in name}
    for value in parameters.values():
        value.data = value.data.float()
        value.requires_grad_(True)
    if start is not None:
        _put(parameters, start, config)
    return parameters


def _start(config: LoraConfig, exclude: Sequence[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layers of the adapter in `config.init`."""
    adapter = read_adapter(config.init)
    if adapter.ranks != (config.rank,):
        ranks = " and ".join(map(str, adapter.ranks))
        remedy = f"set model.lora.rank: {ranks}" if len(adapter.ranks) == 1 else "one rank is needed"
        raise ValueError(f"model.lora.rank is {config.rank}, but {config.init} has rank {ranks}; {remedy}.")
    return {layer: pair for layer, pair in adapter.layers.items() if layer not in exclude}


def _put(
    parameters: Mapping[str, torch.nn.Parameter],
    start: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    config: LoraConfig,
) -> None:
    """Give the parameters the adapter's values, divided by the scale that they are applied with."""
    here, there = set(_layers(parameters)), set(start)
    if here != there:
        lone = sorted(here ^ there)[0]
        remedy = (
            "the model has no such layer, so the adapter is of another model"
            if lone in there and config.targets is None
            else "leave out model.lora.targets to take the adapter's layers"
        )
        raise ValueError(
            f"model.lora.init {config.init}: {lone} is "
            f"{'in the adapter' if lone in there else 'trained'} only; {remedy}."
        )
    for name, value in parameters.items():
        layer, half = name.split(".lora_")
        new = start[layer][0] if half[0] == "A" else start[layer][1] / (config.alpha / config.rank)
        if new.shape != value.shape:
            raise ValueError(
                f"model.lora.init {config.init}: {layer} has shape {tuple(new.shape)} in the adapter and "
                f"{tuple(value.shape)} here; it is of another model."
            )
        value.data.copy_(new)


def _layers(names: Mapping[str, object]) -> list[str]:
    return [name.split(".lora_")[0] for name in names]


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


def export_lora(folder: Path, weights: Mapping[str, torch.Tensor], config: LoraConfig) -> Path:
    """Write the adapter for diffusers, and with `config.export_peft` for peft too, each file whole or not at
    all; returns diffusers' file. alpha / rank is multiplied into B.
    """
    scale = config.alpha / config.rank
    halves = {
        name.replace(f".{ADAPTER}.", "."): value.detach().float().cpu() for name, value in weights.items()
    }
    layers = {
        layer: (halves[f"{layer}.lora_A.weight"], halves[f"{layer}.lora_B.weight"] * scale)
        for layer in sorted(set(_layers(halves)))
    }
    if config.export_peft:
        write_peft(folder / "peft", Adapter(layers))
    return write_diffusers(folder, Adapter(layers))
