"""Load a LLaVA-NeXT-Interleave model, in either layout, into transformers' `LlavaForConditionalGeneration`.

* native: as `save_pretrained` writes it, and as the `llava-hf/llava-interleave-qwen-*-hf` repositories are.
* published: `LlavaQwenForCausalLM`, as `lmms-lab/llava-next-interleave-qwen-0.5b` and UniSim's LL-N are; the
  vision tower's weights are among the others. Keys are renamed as transformers' own
  `convert_llava_weights_to_hf.py` does it; no code of a repository is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipVisionConfig,
)

from reward_plugin.checkpoint_files import read_json, read_weights
from reward_plugin.devices import check_attention
from reward_plugin.errors import CheckpointError
from reward_plugin.published import TEXT_FIELDS
from reward_plugin.scorers.weights import into_model
from reward_plugin.source import find_folder

if TYPE_CHECKING:
    from collections.abc import Callable

#: What the template marks turns with.
MARKS = ("<|im_start|>", "<|im_end|>")
_RULES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^model\.vision_tower\.vision_tower\.", "vision_tower."),
        (r"^model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
        (r"^model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
        (r"^model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
    )
)
#: Settings of the published layout that are understood, with their default.
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_start_end": (False, None),
    "mm_patch_merge_type": ("flat", "spatial", None),
    "use_s2": (False, None),
}


@dataclass(frozen=True)
class Llava:
    """A loaded model and what feeds it.

    Attributes:
        processor: called with pictures, returns what has `pixel_values`.
        image_token: id that stands for one piece of a picture.
        image_tokens: how many of them stand for one picture.
    """

    model: LlavaForConditionalGeneration
    tokenizer: Qwen2Tokenizer
    processor: Callable[..., Any]
    image_token: int
    image_tokens: int


def load_llava(
    path: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    revision: str | None = None,
) -> Llava:
    """Load a local folder, or a hub repository, in either layout.

    Args:
        path: folder or hub id.
        device: where the model goes.
        dtype: of the weights and of what they compute.
        attention: attention implementation of transformers, one of `reward_plugin.devices.ATTENTIONS`.
        revision: branch, tag or commit of a hub id.

    Raises:
        CheckpointError: the folder, a file in it, or the architecture is not what it must be.
    """
    check_attention(attention, torch.device(device), dtype)
    folder = find_folder(path, revision)
    raw = read_json(folder / "config.json", "a model folder has one; is this the right folder?")
    tokenizer = _load_tokenizer(folder)
    weights = read_weights(folder)
    kind = raw.get("model_type")
    if kind in ("llava_qwen", "llava"):
        published = kind == "llava_qwen"
    else:
        raise CheckpointError(f"{folder}: config.json describes a {kind}; it must be a llava_qwen or a llava")
    try:
        config = _native_config(raw, weights, tokenizer, folder) if published else LlavaConfig.from_dict(raw)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the libraries raise over a value they do not know
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(
            f"{folder / 'config.json'}: no model can be built as it says ({reason})"
        ) from error
    if config.text_config.model_type != "qwen2" or config.vision_config.model_type != "siglip_vision_model":
        raise CheckpointError(
            f"{folder}: a {config.text_config.model_type} with a {config.vision_config.model_type}; only a "
            "qwen2 with a siglip_vision_model is known here, as in llava-next-interleave-qwen"
        )
    if published:
        weights = native_names(weights, bool(config.tie_word_embeddings))
    model = into_model(
        LlavaForConditionalGeneration, config, weights, dtype, folder, attn_implementation=attention
    )
    grid = config.vision_config.image_size // config.vision_config.patch_size
    dropped = config.vision_feature_select_strategy == "default"
    return Llava(
        model.to(device),
        tokenizer,
        _load_processor(folder, config.vision_config.image_size),
        config.image_token_index,
        grid**2 - dropped,
    )


def native_names(published: Mapping[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    """The published names to those of the `-hf` repositories, which transformers renames on loading.

    `image_newline`, of which the published code makes no use with one tile a picture, is left out.

    Args:
        published: weights by name.
        tied: whether the language model's head is its embedding; then it is left out.
    """
    native = {}
    for old, tensor in published.items():
        if old == "model.image_newline" or old.endswith(".inv_freq") or (tied and old == "lm_head.weight"):
            continue
        name = old
        for pattern, replacement in _RULES:
            name = pattern.sub(replacement, name)
        native[name] = tensor
    return native


def _native_config(
    raw: Mapping[str, Any], weights: Mapping[str, torch.Tensor], tokenizer: Qwen2Tokenizer, folder: Path
) -> LlavaConfig:
    """The published config in native terms; the vision tower's sizes are read off its weights."""
    for key, known in _REQUIRED.items():
        if (value := raw.get(key)) not in known:
            raise CheckpointError(
                f"{folder / 'config.json'}: {key} is {value!r}; only {known[0]!r} is known here"
            )
    unused = len(tokenizer)  # a row of the embedding that no token has: the picture's pieces stand there
    if unused >= raw.get("vocab_size", 0):
        raise CheckpointError(
            f"{folder}: a tokenizer of {unused} tokens and a vocab_size of {raw.get('vocab_size')}; they are "
            "not of one model: use the tokenizer files that were published with the checkpoint"
        )
    text = Qwen2Config(**{name: raw[name] for name in TEXT_FIELDS if name in raw and name != "rope_scaling"})
    return LlavaConfig(
        vision_config=_vision_config(raw, weights, folder),
        text_config=text,
        image_token_index=unused,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def _vision_config(
    raw: Mapping[str, Any], weights: Mapping[str, torch.Tensor], folder: Path
) -> SiglipVisionConfig:
    tower = str(raw.get("mm_vision_tower"))
    size = re.search(r"siglip.*-(\d+)$", tower)
    if size is None:
        raise CheckpointError(
            f"{folder / 'config.json'}: mm_vision_tower is {tower!r}; only SigLIP is known here, under a "
            "name that ends in the side of its pictures, such as google/siglip-so400m-patch14-384"
        )
    prefix = "model.vision_tower.vision_tower.vision_model."
    own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    layers = {int(match[1]) for name in own if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    try:
        patch, positions = (
            own["embeddings.patch_embedding.weight"],
            own["embeddings.position_embedding.weight"],
        )
        inner = own["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: {prefix}{error.args[0]} is missing: the vision tower's weights are not with the "
            "others; save the whole model, tower included"
        ) from None
    side, width = int(size[1]), patch.shape[0]
    if (side // patch.shape[-1]) ** 2 != len(positions):
        raise CheckpointError(
            f"{folder}: {len(positions)} positions do not fit pictures of {side} pixels in patches of "
            f"{patch.shape[-1]}, as mm_vision_tower {tower!r} says"
        )
    return SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(layers),
        num_attention_heads=16
        if width == 1152
        else max(1, width // 64),  # so400m; the others' heads are 64 wide
        image_size=side,
        patch_size=patch.shape[-1],
        vision_use_head=False,
    )


def _load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    from reward_plugin.checkpoint import token_ids

    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise CheckpointError(
            f"{folder}: the tokenizer files cannot be read ({type(error).__name__}: {error}); a Qwen2 "
            "tokenizer has tokenizer.json, or vocab.json and merges.txt: copy them beside the weights"
        ) from error
    token_ids(tokenizer, MARKS, "turns are marked with it")
    return tokenizer


def _load_processor(folder: Path, size: int) -> Any:
    """SigLIP's preprocessing: straight to a square, PIL bicubic, mean and deviation one half."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(size={"height": size, "width": size})
