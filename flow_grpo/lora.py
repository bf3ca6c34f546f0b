"""LoRA files without a training run: look at one, convert it, or put it into the model for good.

    python -m flow_grpo.lora info --lora runs/flux_dev
    python -m flow_grpo.lora convert --lora runs/flux_dev --format peft --out flux_dev_peft
    python -m flow_grpo.lora fuse --lora runs/flux_dev --model FLUX.1-dev --out FLUX.1-dev-tuned [--scale 0.8]

An adapter is a folder or file in diffusers' or peft's format, a model any diffusers pipeline folder whose
transformer it fits.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flow_grpo.files import replacing, write_tensors

if TYPE_CHECKING:
    import torch

    from flow_grpo.policy.lora_files import Adapter


def info(adapter: Adapter) -> str:
    """What an adapter holds, as text."""
    # |B A|² = sum of (Bᵀ B) (A Aᵀ), elementwise: r x r numbers instead of a layer's.
    sizes = [(float(((b.T @ b) * (a @ a.T)).sum()) ** 0.5, layer) for layer, (a, b) in adapter.layers.items()]
    largest = max(sizes)
    lines = {
        "format": adapter.kind,
        "rank": ", ".join(map(str, adapter.ranks)),
        "alpha": adapter.alpha,
        "layers": str(len(adapter.layers)),
        "parameters": f"{sum(a.numel() + b.numel() for a, b in adapter.layers.values()):,}",
        "change": f"norm {sum(size**2 for size, _ in sizes) ** 0.5:.4g}, "
        f"the most ({largest[0]:.3g}) in {largest[1]}",
    }
    return "\n".join(f"{name:>10}  {text}" for name, text in lines.items())


def convert(adapter: Adapter, kind: str, out: Path) -> Path:
    """Write an adapter in the other format; returns the file."""
    from flow_grpo.policy.lora_files import write_diffusers, write_peft

    return write_peft(out, adapter) if kind == "peft" else write_diffusers(out, adapter)


def fuse(adapter: Adapter, model: Path, out: Path, scale: float = 1.0) -> None:
    """Write a pipeline folder whose transformer has the adapter in its weights, whole or not at all.

    Works on the weight files, one shard in memory at a time; sums are made in float32 and stored in the
    weight's dtype. Everything else is copied.

    Raises:
        ValueError: No pipeline folder, `out` exists, or the adapter does not fit the transformer.
    """
    from safetensors import safe_open

    folder = model / "transformer"
    shards = sorted(folder.glob("*.safetensors"))
    if not (model / "model_index.json").is_file() or not shards:
        raise ValueError(
            f"--model {model} is no pipeline folder (model_index.json, transformer/*.safetensors)."
        )
    if out.exists():
        raise ValueError(f"--out {out} exists; give another folder.")
    open_layers = dict(adapter.layers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        shutil.copytree(model, temporary, ignore=lambda path, _: _weights_of(path, folder))
        for shard in shards:
            with safe_open(str(shard), "pt") as stream:
                tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
            for layer in [layer for layer in open_layers if f"{layer}.weight" in tensors]:
                add(tensors, layer, open_layers.pop(layer), scale)
            write_tensors(temporary / "transformer" / shard.name, tensors)
        if open_layers:
            raise ValueError(
                f"{model} has no layer {next(iter(open_layers))}; the adapter is of another model."
            )


def add(
    tensors: dict[str, torch.Tensor], layer: str, pair: tuple[torch.Tensor, torch.Tensor], scale: float
) -> None:
    """Add scale B @ A to a layer's weight."""
    key = f"{layer}.weight"
    change = pair[1] @ pair[0] * scale
    if change.shape != tensors[key].shape:
        raise ValueError(
            f"{layer} is {tuple(tensors[key].shape)} in the model and {tuple(change.shape)} in the adapter, "
            f"which is of another model."
        )
    tensors[key] = (tensors[key].float() + change).to(tensors[key].dtype)


def _weights_of(path: str, folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.safetensors")} if Path(path) == folder else set()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="flow_grpo.lora", description="Look at, convert or fuse a LoRA.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "info": "Print rank, scale, layers and the size of the change.",
        "convert": "Write it in diffusers' or peft's format.",
        "fuse": "Write the model with the adapter in its weights.",
    }.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--lora", required=True, help="Folder or file of the adapter.")
        if name != "info":
            command.add_argument("--out", required=True, type=Path, help="Folder to write.")
    commands.choices["convert"].add_argument("--format", required=True, choices=("diffusers", "peft"))
    fusing = commands.choices["fuse"]
    fusing.add_argument("--model", required=True, type=Path, help="Pipeline folder to copy from.")
    fusing.add_argument("--scale", type=float, default=1.0, help="Share of the adapter (default: 1).")
    given = parser.parse_args(arguments)
    from flow_grpo.policy.lora_files import read_adapter

    try:
        adapter = read_adapter(given.lora)
        if given.command == "info":
            print(info(adapter))
        elif given.command == "convert":
            print(convert(adapter, given.format, given.out))
        else:
            fuse(adapter, given.model, given.out, given.scale)
            print(given.out)
    except (ValueError, OSError) as error:
        print(f"flow_grpo.lora: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
