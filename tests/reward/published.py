"""Tiny stand-ins for published weights: the published names and shapes, reproducible values.

`tests/data/preference/*.json` holds names and shapes as the published architectures have them at tiny sizes,
and what those returned, in float32 on CPU, on `pictures()` with these very values.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from reward_plugin.images import to_rgb
from tests.reward.golden import FOLDER

LETTERS = [chr(code) for code in range(33, 127)]


def golden(name: str) -> dict[str, Any]:
    """Names and shapes of the weights, crops of the pictures, prompts and published scores."""
    return json.loads((FOLDER.parent / "preference" / f"{name}.json").read_text())


def pictures(crops: Sequence[Sequence[int] | None]) -> list[PIL.Image.Image]:
    """The reference images, each cut to (left, top, right, bottom) or left whole: odd and uneven sizes."""
    opened = [to_rgb(path) for path in sorted((FOLDER / "images").iterdir())]
    return [
        image if box is None else image.crop((box[0], box[1], box[2], box[3]))
        for image, box in zip(opened, crops, strict=True)
    ]


def random_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Values that depend on a weight's name and shape alone: NumPy's frozen generator, seeded by the name."""
    weights = {}
    for name, shape in shapes.items():
        normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        kind = name.rpartition(".")[2]
        if name == "logit_scale":
            value = np.full(shape, 4.6052)
        elif kind == "weight" and len(shape) == 1:
            value = 1 + 0.1 * normal
        elif kind in ("bias", "in_proj_bias"):
            value = 0.1 * normal
        elif len(shape) > 1 and kind in ("weight", "in_proj_weight") and "embedding" not in name:
            value = normal / np.sqrt(np.prod(shape[1:]))
        else:
            value = 0.5 * normal
        weights[name] = torch.tensor(value, dtype=torch.float32)
    return weights


def save_clip_processing(folder: Path, positions: int, size: int) -> dict[str, int]:
    """Write a letter tokenizer and CLIP's preprocessing for pictures of `size`; the ids of both ends."""
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=positions).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}


def save_clip_config(folder: Path) -> CLIPConfig:
    """Write processing and config.json of a tiny CLIP: 32x32 pictures, 77 tokens; without weights."""
    ends = save_clip_processing(folder, 77, 32)
    tower = {"intermediate_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, **ends, "vocab_size": 190, "max_position_embeddings": 77, "hidden_act": "gelu"},
        vision_config={**tower, "image_size": 32, "patch_size": 8, "hidden_act": "gelu"},
        projection_dim=16,
    )
    config.save_pretrained(folder)
    return config


def save_clip(folder: Path) -> CLIPModel:
    """Write a whole tiny CLIP folder with random weights."""
    config = save_clip_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    return model


def save_bert_tokenizer(folder: Path) -> None:
    """Write a vocabulary of letters and their continuations."""
    letters = [letter for letter in LETTERS if not letter.isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
