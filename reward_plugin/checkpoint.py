"""Load a UniPercept-format checkpoint, in either layout, into transformers' native InternVL: no remote code.

* published: `InternVLChatModel` keys and config, as UniPercept, ArtiMuse and its AVA, FLICKR-AES, PARA and
  TAD66K siblings, and InternVL3 are released. The config names remote classes, so the Auto classes would ask
  to run them; here the classes are named and the keys are renamed.
* native: `InternVLForConditionalGeneration`, as `save_pretrained` writes it, under the names the model has in
  memory or under the flat names of the `-hf` repositories, which transformers renames.

Weights may be one safetensors file or shards with an index. Pickled `.bin` weights are refused: unpickling
can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Tokenizer

from reward_plugin.errors import CheckpointError
from reward_plugin.prompting import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, SYSTEM_MESSAGE
from reward_plugin.published import native_config, native_weights
from reward_plugin.source import find_folder


@dataclass(frozen=True)
class Checkpoint:
    """A loaded rating model.

    Attributes:
        image_size: side in pixels to which every image is resized.
        num_image_tokens: how many `<IMG_CONTEXT>` tokens stand for one image.
        system_message: the system turn by the published rule: the config's, even when it is null, where the
            config has the key, and the template's otherwise.
    """

    model: InternVLForConditionalGeneration
    tokenizer: Qwen2Tokenizer
    image_size: int
    num_image_tokens: int
    system_message: str | None


def load_checkpoint(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    revision: str | None = None,
    quantise: str | None = None,
) -> Checkpoint:
    """Load a local folder, or a hub repository, in either layout: a model of the caller's own.

    To share one model between several users in the process, see `reward_plugin.engines.shared_checkpoint`.

    Args:
        path: folder, or hub id such as `Thunderbolt215215/UniPercept`.
        device: where the model goes.
        dtype: of the weights and of what they compute.
        attention: attention implementation of transformers.
        revision: branch, tag or commit of a hub id.
        quantise: int8, int4 or fp8 (see `reward_plugin.quantise`), or None.

    Raises:
        CheckpointError: the folder, a file in it, or the architecture is not what it must be.
        ConfigError: a quantisation that is unknown, or cannot run here.
    """
    folder = find_folder(path, revision)
    raw = _read_json(folder / "config.json", "a checkpoint folder has one; is this the right folder?")
    published = _is_published(raw, folder)
    tokenizer = _load_tokenizer(folder)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    config = native_config(raw, image_token, folder) if published else InternVLConfig.from_pretrained(folder)
    weights = _read_weights(folder)
    if published:
        weights = native_weights(weights, folder)
    model = _build_model(config, weights, folder, dtype, attention)
    model = model.to(device).eval().requires_grad_(False)
    if quantise is not None:
        from reward_plugin.quantise import apply

        model = apply(model, quantise)
    image_size = getattr(config, "force_image_size", None) or config.vision_config.image_size[0]
    grid = image_size // config.vision_config.patch_size[0]
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        image_size=image_size,
        num_image_tokens=int(grid**2 * config.downsample_ratio**2),
        system_message=config.system_message if hasattr(config, "system_message") else SYSTEM_MESSAGE,
    )


def _build_model(
    config: InternVLConfig,
    weights: dict[str, torch.Tensor],
    folder: Path,
    dtype: torch.dtype,
    attention: str,
) -> InternVLForConditionalGeneration:
    try:
        model, info = InternVLForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be loaded: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[problem])):
            raise CheckpointError(
                f"{folder}: {len(names)} {problem.replace('_', ' ')}, first {names[0]}; "
                "config.json and the weights are not of one model: download the checkpoint again"
            )
    return model


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, each of which exists.

    Raises:
        CheckpointError: a file is missing, or the weights are pickled.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = _read_json(index, "").get("weight_map")
        if not isinstance(names, dict) or not names:
            raise CheckpointError(f"{index}: has no weight_map, which names the shards; download it again")
        files = [folder / name for name in sorted(set(names.values()))]
        rule = f"{index.name} lists {len(files)} shards"
    else:
        files = [folder / "model.safetensors"]
        rule = "a checkpoint has model.safetensors, or model.safetensors.index.json and its shards"
        pickled = sorted(folder.glob("pytorch_model*.bin*"))
        if pickled and not files[0].is_file():
            raise CheckpointError(
                f"{pickled[0]}: only pickled weights, which are not read, because unpickling can run code; "
                "take a revision of the repository that has safetensors, or convert them: "
                "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
            )
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; {rule}: download the checkpoint again")
    return files


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: damaged or incomplete ({error}); download it again") from error
    return weights


def _is_published(raw: Mapping[str, Any], folder: Path) -> bool:
    name = (raw.get("architectures") or [raw.get("model_type")])[0]
    if name in ("InternVLChatModel", "internvl_chat"):
        return True
    if name in ("InternVLForConditionalGeneration", "internvl"):
        language = (raw.get("text_config") or {}).get("model_type", "qwen2")
        if language != "qwen2":
            raise CheckpointError(f"{folder}: text_config is a {language}; only qwen2 is supported")
        return False
    raise CheckpointError(
        f"{folder}: config.json describes a {name}; it must be an InternVLChatModel, as UniPercept "
        "is published, or an InternVLForConditionalGeneration: is this the right folder?"
    )


def _load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder / name}: missing; a Qwen2 tokenizer has tokenizer.json, or vocab.json and "
                    "merges.txt: copy the tokenizer files beside the weights"
                )
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise CheckpointError(
            f"{folder}: the tokenizer files cannot be read ({type(error).__name__}: {error}); "
            "download them again"
        ) from error
    token_ids(tokenizer, (IMAGE_START, IMAGE_END, IMAGE_CONTEXT, "<|im_start|>", "<|im_end|>"))
    return tokenizer


def token_ids(tokenizer: Qwen2Tokenizer, tokens: tuple[str, ...]) -> list[int]:
    """Ids of tokens that must be in the vocabulary."""
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    for token, index in zip(tokens, ids, strict=True):
        if index is None or index == tokenizer.unk_token_id:
            raise CheckpointError(
                f"{tokenizer.name_or_path}: token {token!r} is not in the vocabulary; a rating model answers "
                "with the 101 letter tokens aa to ey and sees <IMG_CONTEXT>: use the published tokenizer"
            )
    return ids


def _read_json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); download it again") from None
