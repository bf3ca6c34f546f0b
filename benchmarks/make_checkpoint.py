"""Write a random checkpoint of a chosen size in the published UniPercept layout, which both we and
`unipercept-reward` load.

    python -m benchmarks.make_checkpoint /tmp/unipercept-60m --shape 60m

Tokenizer files and all other settings are those of the reference checkpoint of the tests, whose small
vocabulary makes the questions longer (about 800 tokens with the image, where Qwen2's has about 500).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

TEMPLATE = Path(__file__).parents[1] / "tests" / "data" / "unipercept" / "checkpoint"


@dataclass(frozen=True)
class Shape:
    """Width, depth, heads and feed-forward width of vision tower and decoder."""

    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    key_value_heads: int


#: 60m has about the proportions of InternVL3-1B: a vision tower (here ViT-S) of half the decoder's size.
SHAPES = {
    "60m": Shape(vision=(384, 12, 6, 1536), text=(512, 12, 8, 1536), key_value_heads=2),
    "tiny": Shape(vision=(32, 1, 2, 64), text=(32, 2, 4, 48), key_value_heads=2),
}

PATCH, POSITIONS = 14, 1025  # 448 / 14 squared, and the class token


def shapes_of(shape: Shape, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Published name and size of every weight."""
    width, depth, _, inner = shape.vision
    root = "vision_model.embeddings"
    yield f"{root}.class_embedding", (1, 1, width)
    yield f"{root}.patch_embedding.weight", (width, 3, PATCH, PATCH)
    yield f"{root}.patch_embedding.bias", (width,)
    yield f"{root}.position_embedding", (1, POSITIONS, width)
    for i in range(depth):
        layer = f"vision_model.encoder.layers.{i}"
        yield from _linear(f"{layer}.attn.qkv", 3 * width, width)
        yield from _linear(f"{layer}.attn.proj", width, width)
        yield from _linear(f"{layer}.mlp.fc1", inner, width)
        yield from _linear(f"{layer}.mlp.fc2", width, inner)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1", "ls2"):
            yield f"{layer}.{name}", (width,)
    hidden, depth, heads, inner = shape.text
    yield from (("mlp1.0.weight", (4 * width,)), ("mlp1.0.bias", (4 * width,)))
    yield from _linear("mlp1.1", hidden, 4 * width)
    yield from _linear("mlp1.3", hidden, hidden)
    keys = hidden // heads * shape.key_value_heads
    yield "language_model.model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(depth):
        layer = f"language_model.model.layers.{i}"
        for name, rows in (("q_proj", hidden), ("k_proj", keys), ("v_proj", keys)):
            yield from _linear(f"{layer}.self_attn.{name}", rows, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inner)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "language_model.model.norm.weight", (hidden,)
    yield "language_model.lm_head.weight", (vocabulary, hidden)


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _fill(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if name.endswith(("ls1", "ls2")):
        return torch.full(size, 0.5)
    if len(size) == 1:
        return torch.zeros(size) if name.endswith("bias") else torch.ones(size)
    values = torch.randn(size, generator=generator)
    if "patch_embedding" in name or "embed" not in name:
        values *= values[0].numel() ** -0.5  # keeps the size of what passes through
    return values * 3 if "lm_head" in name else values


def make(folder: Path, shape: Shape, template: Path = TEMPLATE, seed: int = 0) -> int:
    """Write the checkpoint and return how many parameters it has."""
    config = json.loads((template / "config.json").read_text(encoding="utf-8"))
    for part, numbers in (("vision_config", shape.vision), ("llm_config", shape.text)):
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        config[part] |= dict(zip(names, numbers, strict=True))
    config["llm_config"]["num_key_value_heads"] = shape.key_value_heads
    config["hidden_size"] = shape.text[0]
    generator = torch.Generator().manual_seed(seed)
    vocabulary = config["llm_config"]["vocab_size"]
    weights = {name: _fill(name, size, generator) for name, size in shapes_of(shape, vocabulary)}
    folder.mkdir(parents=True, exist_ok=True)
    for file in template.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(weight.numel() for weight in weights.values())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="60m")
    parser.add_argument(
        "--template", type=Path, default=TEMPLATE, help="checkpoint to take the tokenizer from"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = make(options.folder, SHAPES[options.shape], options.template, options.seed)
    print(f"{options.folder}: {count / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
