"""What a model costs, from its files' headers and from arithmetic; nothing is loaded and nothing measured.

Cost model, per transformer forward of n = image + text tokens, width d, L blocks of either kind (each has 12
d² of linear weights for a token): 24 n d² L for the linear layers and 4 n² d L for attention. Forward and
backward into LoRA on a frozen base cost 2.1 forwards: gradients of activations, none of base weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from flow_grpo.policy import POLICIES

BACKWARD = 1.1
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Activations kept for the backward pass, bytes for each token, block and unit of width: 34 of a 16-bit block
#: without attention scores (arXiv 2205.05198), and 36 of float32 copies at the adapters' inputs.
ACTIVATION = 70
GIB = 2**30
FLUX = "FluxPipeline"


@dataclass(frozen=True)
class Gpu:
    """Attributes:
    tflops: Peak of dense bf16 matrix products as its maker states it, 10^12 operations a second.
    memory: Gigabytes, 10^9.
    """

    tflops: float
    memory: float


#: What --gpu knows; makers' data sheets, dense (not sparse) rates, SXM where there are several forms.
GPUS = {
    "a100": Gpu(312, 80),
    "a100-40gb": Gpu(312, 40),
    "b200": Gpu(2250, 180),
    "h100": Gpu(989, 80),
    "h100-pcie": Gpu(756, 80),
    "h200": Gpu(989, 141),
    "l4": Gpu(121, 24),
    "l40s": Gpu(362, 48),
    "rtx4090": Gpu(165, 24),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a pipeline.

    Attributes:
        kind: Its class, as in `flow_grpo.policy.POLICIES`.
        blocks: Two-stream transformer blocks.
        single_blocks: One-stream blocks.
        width: Of the transformer.
        channels: Of a packed latent token.
        reduction: Of the VAE.
        parameters: By component: transformer, vae, text_encoder, ...
        layers: Linear layers of the transformer, name -> inputs and outputs together; empty: FLUX's, by its
            sizes.
        known: False where the numbers are FLUX.1-dev's, because the model is not on this machine.
    """

    kind: str = FLUX
    blocks: int = 19
    single_blocks: int = 38
    width: int = 3072
    channels: int = 64
    reduction: int = 8
    parameters: Mapping[str, float] = field(
        default_factory=lambda: {
            "transformer": 11.90e9,
            "vae": 0.08e9,
            "text_encoder": 0.12e9,
            "text_encoder_2": 4.76e9,
        }
    )
    layers: Mapping[str, int] = field(default_factory=dict)
    known: bool = False


def read_shape(path: str) -> Shape:
    """Sizes of a pipeline folder, or FLUX.1-dev's where there is no such folder."""
    folder = Path(path)
    if not (folder / "transformer" / "config.json").is_file():
        return Shape()
    index, transformer, vae = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("model_index.json", "transformer/config.json", "vae/config.json")
    )
    parameters: dict[str, float] = {}
    layers: dict[str, int] = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        tensors = _header(file)
        count = sum(math.prod(shape) for shape in tensors.values())
        parameters[file.parent.name] = parameters.get(file.parent.name, 0) + count
        if file.parent.name == "transformer":
            layers.update(_linear(tensors))
    packing = 1 if index["_class_name"] != "StableDiffusion3Pipeline" else transformer["patch_size"] ** 2
    return Shape(
        kind=index["_class_name"],
        blocks=transformer["num_layers"],
        single_blocks=transformer.get("num_single_layers", 0),
        width=transformer["num_attention_heads"] * transformer["attention_head_dim"],
        channels=transformer["in_channels"] * packing,
        reduction=2 ** (len(vae.get("block_out_channels") or vae["dim_mult"]) - 1),
        parameters=parameters,
        layers=layers,
        known=True,
    )


def forward_flop(shape: Shape, tokens: int) -> float:
    """Floating-point operations of one transformer forward of one picture."""
    blocks = shape.blocks + shape.single_blocks
    return blocks * (24 * tokens * shape.width**2 + 4 * tokens**2 * shape.width)


def lora_parameters(shape: Shape, rank: int, targets: Sequence[str] | None = None) -> int:
    """Adapter parameters: a layer of n inputs and m outputs gets rank (n + m).

    Args:
        shape: Of the model.
        rank: Of the adapters.
        targets: Ends of layers' names; none: the recipe's.
    """
    ends = tuple(targets or import_module(POLICIES[shape.kind][0]).LORA_TARGETS)
    layers = shape.layers or dict(_flux_layers(shape))
    matched = (size for name, size in layers.items() if f".{name}".endswith(tuple(f".{end}" for end in ends)))
    return rank * sum(matched)


def _flux_layers(shape: Shape) -> Iterator[tuple[str, int]]:
    d = shape.width
    yield from (
        ("x_embedder", shape.channels + d),
        ("proj_out", d + shape.channels),
        ("norm_out.linear", 3 * d),
    )
    square = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    for index in range(shape.blocks):
        block = f"transformer_blocks.{index}"
        yield from ((f"{block}.attn.{name}", 2 * d) for name in square)
        yield from (
            (f"{block}.{name}", 5 * d)
            for name in ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
        )
        yield from ((f"{block}.{name}", 7 * d) for name in ("norm1.linear", "norm1_context.linear"))
    for index in range(shape.single_blocks):
        block = f"single_transformer_blocks.{index}"
        yield from ((f"{block}.attn.{name}", 2 * d) for name in square[:3])
        sizes = {"proj_mlp": 5, "proj_out": 6, "norm.linear": 4}
        yield from ((f"{block}.{name}", size * d) for name, size in sizes.items())


def _linear(tensors: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int]]:
    """Layers with a weight of two dimensions."""
    for name, shape in tensors.items():
        if name.endswith(".weight") and len(shape) == 2:
            yield name.removesuffix(".weight"), sum(shape)


def _header(file: Path) -> dict[str, Sequence[int]]:
    """Names and shapes in a safetensors file."""
    with file.open("rb") as stream:
        header: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
