"""Write a native InternVL as the published layout: InternVLChatModel names, fused qkv, Qwen2 tokenizer
files.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import InternVLForConditionalGeneration

TOKENIZER_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")
_RULES = (  # native name -> published name, in order
    (r"^model\.vision_tower\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (
        r"^model\.vision_tower\.embeddings\.patch_embeddings\.projection\.",
        "vision_model.embeddings.patch_embedding.",
    ),
    (r"^model\.vision_tower\.embeddings\.position_embeddings$", "vision_model.embeddings.position_embedding"),
    (r"^model\.vision_tower\.encoder\.layer\.", "vision_model.encoder.layers."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_([12])$", r".ls\1"),
    (r"^model\.multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^model\.multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^model\.multi_modal_projector\.linear_2\.", "mlp1.3."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)


def published_weights(model: InternVLForConditionalGeneration) -> dict[str, Tensor]:
    """The model's weights under InternVLChatModel's names; query, key and value of the vision tower fused
    in that order.
    """
    native = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name in [name for name in native if ".attention.q_proj." in name]:
        parts = [native.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        native[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    published = {}
    for name, tensor in native.items():
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        published[name] = tensor
    return published


def export(
    model: InternVLForConditionalGeneration, base: Path, folder: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write `model` to `folder`, with config.json and tokenizer files from `base`; weights rounded to
    `dtype`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(base / name, folder / name)
    raw = json.loads((base / "config.json").read_text(encoding="utf-8"))
    raw["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    generation = {"_from_model_config": True, "eos_token_id": None}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in published_weights(model).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def average(first: Path, second: Path, share: float) -> dict[str, Tensor]:
    """Weights between those of two exported folders: (1 - share) of the first, `share` of the second.

    Where the second was trained on from the first, the average often generalises better than either
    (WiSE-FT, arXiv 2109.01903).
    """
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    mixed = {name: torch.lerp(before[name].float(), after[name].float(), share) for name in before}
    return {name: tensor.to(before[name].dtype) for name, tensor in mixed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Copy the last export of a training run to where it is committed."
    )
    parser.add_argument("run", type=Path, help="the --out folder of pocket.unipercept.train")
    parser.add_argument("--to", type=Path, default=Path("pocket/weights/unipercept"))
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the run's weights in the average with those in --to"
    )
    arguments = parser.parse_args()
    new = arguments.run / "export"
    weights = average(arguments.to, new, arguments.share) if arguments.share < 1 else None
    shutil.copytree(new, arguments.to, dirs_exist_ok=True)
    if weights:
        save_file(weights, arguments.to / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
