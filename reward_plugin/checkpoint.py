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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Tokenizer

from reward_plugin.checkpoint_files import read_json, read_weights
from reward_plugin.devices import check_attention
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
        attention: attention implementation of transformers, one of `reward_plugin.devices.ATTENTIONS`.
        revision: branch, tag or commit of a hub id.
        quantise: int8, int4 or fp8 (see `reward_plugin.quantise`), or None.

    Raises:
        CheckpointError: the folder, a file in it, or the architecture is not what it must be.
        ConfigError: an attention implementation or a quantisation that is unknown, or cannot run here.
    """
    check_attention(attention, torch.device(device), dtype)
    folder = find_folder(path, revision)
    raw = read_json(folder / "config.json", "a checkpoint folder has one; is this the right folder?")
    published = _is_published(raw, folder)
    tokenizer = _load_tokenizer(folder)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    config, shapes = _read_config(raw, published, image_token, folder)
    weights = read_weights(folder)
    if published:
        weights = native_weights(weights, folder)
        _check_shapes(weights, shapes, folder)
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


def _read_config(
    raw: Mapping[str, Any], published: bool, image_token: int, folder: Path
) -> tuple[InternVLConfig, dict[str, torch.Size]]:
    """The native config, and name and shape of every weight of the model that it describes."""
    try:
        config = (
            native_config(raw, image_token, folder) if published else InternVLConfig.from_pretrained(folder)
        )
        with torch.device("meta"):  # takes no memory
            skeleton = InternVLForConditionalGeneration(config)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the libraries raise over a value they do not know
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(
            f"{folder / 'config.json'}: no model can be built as it says ({reason}); download it again"
        ) from error
    tied = set(skeleton.all_tied_weights_keys or ())
    return config, {name: w.shape for name, w in skeleton.state_dict().items() if name not in tied}


def _check_shapes(
    weights: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], folder: Path
) -> None:
    """Before memory is taken for a model that may be far larger than the weights."""
    _all_well("missing keys", shapes.keys() - weights.keys(), folder)
    wrong = {name for name, shape in shapes.items() if weights[name].shape != shape}
    _all_well("mismatched keys", wrong, folder)


def _all_well(problem: str, names: Iterable[object], folder: Path) -> None:
    if found := sorted(map(str, names)):
        raise CheckpointError(
            f"{folder}: {len(found)} {problem}, first {found[0]}; "
            "config.json and the weights are not of one model: download the checkpoint again"
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
        _all_well(problem.replace("_", " "), info[problem], folder)
    return model


def _is_published(raw: Mapping[str, Any], folder: Path) -> bool:
    listed = raw.get("architectures")
    name = listed[0] if isinstance(listed, list) and listed else raw.get("model_type")
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
    marks = (IMAGE_START, IMAGE_END, IMAGE_CONTEXT, "<|im_start|>", "<|im_end|>")
    token_ids(tokenizer, marks, "turns and the image are marked with it")
    return tokenizer


def token_ids(tokenizer: Qwen2Tokenizer, tokens: Sequence[str], use: str) -> list[int]:
    """Ids of tokens that must be in the vocabulary.

    Args:
        tokenizer: whose vocabulary.
        tokens: each must be one token of it.
        use: what such a token is needed for, for the error.

    Raises:
        CheckpointError: one is not there.
    """
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    for token, index in zip(tokens, ids, strict=True):
        if index is None or index == tokenizer.unk_token_id:
            raise CheckpointError(
                f"{tokenizer.name_or_path}: token {token!r} is not in the vocabulary, and {use}; "
                "use the tokenizer files that were published with the checkpoint"
            )
    return ids
