"""Finding and loading a diffusers pipeline, with one clear error for whatever is missing in its folder."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flow_grpo.policy.text import TextEmbeddings, TextSide, TextStore, encoder_fingerprint

if TYPE_CHECKING:
    from flow_grpo.policy.flux import ModelConfig

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TEXT_PARTS = ("text_encoder", "tokenizer")


def check_model_path(path: str) -> None:
    """Refuse a path that cannot be a pipeline, before anything is loaded.

    Raises:
        ValueError: Neither a folder with model_index.json nor a hub name.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"model.path is {path!r}, a folder without model_index.json; give a diffusers pipeline folder."
        )
    if not folder.is_dir() and (folder.exists() or not HUB_NAME.fullmatch(path)):
        raise ValueError(
            f"model.path is {path!r}, and there is no such folder; give a diffusers pipeline folder or a hub "
            f"name such as black-forest-labs/FLUX.1-dev."
        )


def read_index(path: str) -> dict[str, Any]:
    """A pipeline's model_index.json, from a folder or the hub.

    Raises:
        ValueError: It is not there, or no JSON.
    """
    check_model_path(path)
    file = Path(path) / "model_index.json"
    try:
        if not Path(path).is_dir():
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(path, "model_index.json"))
        index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path {path!r}: model_index.json cannot be read: {_line(error)}") from error
    return index


def check_pieces(folder: Path, kind: str) -> None:
    """Refuse a pipeline folder that lacks a component or a shard of its weights.

    Args:
        folder: With model_index.json.
        kind: Class that it is to be loaded as, for the message.

    Raises:
        ValueError: Naming the first piece that is missing.
    """
    index = read_index(str(folder))
    parts = {name: value for name, value in index.items() if isinstance(value, list) and value[0]}
    missing = [] if parts else ["model_index.json names no component"]
    for name, (_, class_name) in parts.items():
        part = folder / name
        if not part.is_dir():
            missing.append(f"{name}/ ({class_name}) is missing")
        elif name.startswith(("text_encoder", "transformer", "vae")):
            missing += [f"{name}/{piece}" for piece in _missing_weights(part)]
    if missing:
        raise ValueError(
            f"model.path {str(folder)!r} cannot be loaded as a {kind}: {missing[0]}; "
            f"copy the model again, or complete the download."
        )


def _missing_weights(part: Path) -> list[str]:
    if not (part / "config.json").is_file():
        return ["config.json is missing"]
    shards = {
        shard
        for file in part.glob("*.safetensors.index.json")
        for shard in json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
    }
    if not shards and not list(part.glob("*.safetensors")):
        return ["*.safetensors is missing (weights in other formats are not loaded)"]
    return [f"{shard} is missing" for shard in sorted(shards) if not (part / shard).is_file()]


def load_pipeline(config: ModelConfig, kind: str, **parts: Any) -> Any:
    """Load a pipeline in `config.dtype`, on the CPU.

    Args:
        config: The model section of the configuration.
        kind: Name of the pipeline's class in diffusers.
        parts: Components to use instead of those in the folder; None leaves one out.

    Raises:
        ValueError: Something is missing or broken.
    """
    check_model_path(config.path)
    if Path(config.path).is_dir():
        check_pieces(Path(config.path), kind)
        # diffusers wants to be told of text encoders that the folder does without.
        index = read_index(config.path)
        absent = [name for name, value in index.items() if name.startswith(TEXT_PARTS) and value[0] is None]
        parts = {**dict.fromkeys(absent), **parts}
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # diffusers' import makes it advise about torchvision
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from safetensors import SafetensorError

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # diffusers 0.42 deprecates the only name of this argument that 0.38 knows.
            warnings.simplefilter("ignore", FutureWarning)
            options = {"torch_dtype": getattr(torch, config.dtype), "use_safetensors": True}
            return getattr(diffusers, kind).from_pretrained(config.path, **options, **parts)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"model.path {config.path!r} cannot be loaded as a {kind}: {_line(error)}"
        ) from error


def load_parts(
    config: ModelConfig, kind: str, device: torch.device | str, whole: bool = True
) -> tuple[Any, TextSide]:
    """The pipeline on its device, and what encodes prompts.

    Without `whole` the transformer stays on the CPU: it is to be split, and may not fit the device. With
    `config.text_cache` the pipeline has no text encoders; they are loaded when a prompt is missing.
    """
    if config.text_cache is None:
        pipeline = _placed(load_pipeline(config, kind), device, but="" if whole else "transformer")
        _freeze(pipeline)
        return pipeline, TextSide(pipeline, lambda: pipeline)
    names = [name for name, value in read_index(config.path).items() if isinstance(value, list)]
    parts = {name: None for name in names if name.startswith(TEXT_PARTS)}
    pipeline = _placed(load_pipeline(config, kind, **parts), device, but="" if whole else "transformer")
    _freeze(pipeline)

    def load_encoders() -> Any:
        # The transformer is handed over, not loaded: an absent encoder's embedding has its width.
        encoders = load_pipeline(config, kind, transformer=pipeline.transformer, vae=None)
        _placed(encoders, device, but="transformer")
        _freeze(encoders, but="transformer")
        return encoders

    return pipeline, TextSide(None, load_encoders)


def text_embeddings(config: ModelConfig, kind: str, side: TextSide, compute: Any) -> TextEmbeddings:
    """Embeddings of this model's encoders, kept on disk where `config.text_cache` says so."""
    if config.text_cache is None:
        return TextEmbeddings(compute, side.release)
    folder = Path(config.path)
    if not folder.is_dir():
        import diffusers

        folder = Path(getattr(diffusers, kind).download(config.path))
    fingerprint = encoder_fingerprint(folder, kind, config.max_sequence_length, config.dtype)
    return TextEmbeddings(compute, side.release, TextStore(config.text_cache, fingerprint))


def _placed(pipeline: Any, device: torch.device | str, but: str = "") -> Any:
    """The pipeline with its components on a device."""
    components: Mapping[str, Any] = pipeline.components
    for name, component in components.items():
        if isinstance(component, torch.nn.Module) and name != but:
            component.to(device)
    return pipeline


def _freeze(pipeline: Any, but: str = "") -> None:
    """No gradients, and no dropout: it would make the re-scored log-probability another random variable."""
    components: Mapping[str, Any] = pipeline.components
    for name, component in components.items():
        if isinstance(component, torch.nn.Module) and name != but:
            component.requires_grad_(False).eval()


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
