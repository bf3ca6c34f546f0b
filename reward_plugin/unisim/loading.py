"""A CLIP, and the tuned weights on top of it, from whatever layout they come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_plugin.errors import CheckpointError
from reward_plugin.scorers.clip_folder import load_model, load_processing
from reward_plugin.scorers.open_clip import native_weights
from reward_plugin.scorers.weights import into_model
from reward_plugin.source import find_folder
from reward_plugin.unisim.adapter import CONFIG, merge_adapter
from reward_plugin.unisim.layout import apply, merge, read_published

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer


#: What is read of a base whose weights are replaced.
SETTINGS = ("*.json", "*.txt")


def replaces_base(weights: str | None) -> bool:
    """Whether these weights stand in place of all of the base's, so that it gives its settings alone."""
    return weights is not None and not (Path(weights).expanduser() / CONFIG).is_file()


def load_clip(
    path: str,
    weights: str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    alpha: float | None = None,
) -> tuple[CLIPModel, CLIPTokenizer, Any]:
    """A plain `CLIPModel` with its tokenizer and image processor.

    Args:
        path: folder or hub id of a `CLIPModel` in transformers' layout: the base.
        weights: what to put in place of the base's weights: a file in UniSim's published layout, in
            transformers' names or in open_clip's; an adapter folder of PEFT; or the folder of another
            `CLIPModel`. Of the base only config, tokenizer and preprocessing are read then, unless there is
            an adapter to add to it.
        dtype: of the weights and of what they compute; adapters are merged in float32.
        revision: branch, tag or commit of a hub id given as `path`.
        alpha: LoRA's alpha of a published file that does not say; None: 32 at rank 16.

    Raises:
        CheckpointError: what of it is missing, damaged or of another model.
    """
    from transformers import CLIPModel

    place = None if weights is None else Path(weights).expanduser()
    if place is not None and not any(map(Path.is_file, (place, place / CONFIG, place / "config.json"))):
        raise CheckpointError(
            f"{weights}: neither a weight file, nor a folder with {CONFIG} or config.json; give UniSim's "
            "published file, a file of open_clip's, an adapter folder, or the folder of a CLIPModel"
        )
    folder = find_folder(path, revision, SETTINGS) if replaces_base(weights) else find_folder(path, revision)
    tokenizer, processor = load_processing(folder)
    if place is None:
        model = load_model(CLIPModel, folder, dtype)
    elif place.is_file():
        model = _from_file(folder, place, dtype, alpha)
    elif replaces_base(weights):
        model = load_model(CLIPModel, place, dtype)
    else:
        base = load_model(CLIPModel, folder, torch.float32)
        model = apply(base, merge_adapter(base.state_dict(), place), place).to(dtype)
    return model, tokenizer, processor


def _from_file(folder: Path, file: Path, dtype: torch.dtype, alpha: float | None) -> CLIPModel:
    from transformers import CLIPConfig, CLIPModel

    try:
        config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: its config.json cannot be read: {error}") from error
    given, written = read_published(file)
    if any(name.startswith("visual.") for name in given):
        native = native_weights(given, file)
    else:
        native = merge(given, written if alpha is None else alpha, file)
        native.setdefault("logit_scale", torch.tensor(config.logit_scale_init_value))
    kept = {name: tensor for name, tensor in native.items() if not name.endswith(".position_ids")}
    return into_model(CLIPModel, config, kept, dtype, file)
