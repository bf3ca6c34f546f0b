"""What a CLIP folder holds, loaded part by part: PickScore, HPSv2 and LAION's predictor each need some of
it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_plugin.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer


def load_processing(folder: Path) -> tuple[CLIPTokenizer, Any]:
    """The tokenizer and the PIL image processor of a CLIP folder.

    Raises:
        CheckpointError: a file of theirs is missing or damaged.
    """
    from transformers import CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    for names in (("preprocessor_config.json",), ("tokenizer.json", "vocab.json")):
        if not any((folder / name).is_file() for name in names):
            raise CheckpointError(
                f"{folder / names[0]}: missing; a CLIP folder has tokenizer and preprocessor_config.json; "
                "copy them beside the weights"
            )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer, CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: its tokenizer or preprocessing cannot be read: {error}") from error


def load_model(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A CLIP class of transformers from a folder with config.json and safetensors; no weight may be missing.

    Raises:
        CheckpointError: what of it is wrong.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder / 'config.json'}: missing; a CLIP folder holds a CLIPModel with its config"
        )
    try:
        model, info = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: not a loadable CLIPModel folder: {error}") from error
    if missing := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise CheckpointError(
            f"{folder}: not a CLIPModel's weights: {len(missing)} missing, first {missing[0]}"
        )
    return model.eval().requires_grad_(False)
