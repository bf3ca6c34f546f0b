"""Trained weights in the formats of others.

peft        adapter_config.json and adapter_model.safetensors: `PeftModel.from_pretrained(clip, folder)`
merged      a `CLIPModel` folder with the adapters in its weights, tokenizer and preprocessing
published   unisim.pt, in the layout of the published checkpoints, see `reward_plugin.unisim.layout`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from reward_plugin.unisim.layout import apply, merge, published_weights, write_published
from reward_plugin.unisim.train.config import Format, ModelConfig
from reward_plugin.unisim.train.encoder import Encoder
from reward_plugin.unisim.train.state import appearing


def export(folder: Path, encoder: Encoder, config: ModelConfig, kind: Format) -> Path:
    """Write one format into `folder/<kind>`, whole or not at all, and return that path."""
    target = folder / kind
    folder.mkdir(parents=True, exist_ok=True)
    with appearing(target) as partial:
        partial.mkdir()
        WRITERS[kind](partial, encoder, config)
    return target


def _peft(folder: Path, encoder: Encoder, config: ModelConfig) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in get_peft_model_state_dict(encoder.model).items()
    }
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    described = encoder.model.peft_config["default"]
    was = described.inference_mode, described.base_model_name_or_path
    described.inference_mode, described.base_model_name_or_path = True, config.path
    described.save_pretrained(str(folder))
    described.inference_mode, described.base_model_name_or_path = was


def _merged(folder: Path, encoder: Encoder, config: ModelConfig) -> None:
    from transformers import CLIPModel

    from reward_plugin.scorers.clip_folder import load_model

    named = {
        name.removeprefix("module."): value.cpu() for name, value in published_weights(encoder.model).items()
    }
    clip = load_model(CLIPModel, encoder.folder, torch.float32)
    apply(clip, merge(named, config.lora.alpha), "the trained weights").save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)


def _published(folder: Path, encoder: Encoder, config: ModelConfig) -> None:
    write_published(folder / "unisim.pt", encoder.model, config.lora.alpha)


WRITERS: Mapping[Format, Callable[[Path, Encoder, ModelConfig], None]] = {
    "peft": _peft,
    "merged": _merged,
    "published": _published,
}
