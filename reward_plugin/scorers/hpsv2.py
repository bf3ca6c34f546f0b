"""HPSv2 and v2.1: human preference among pictures of one prompt.

Wu et al., "Human Preference Score v2", arXiv 2306.09341; weights `xswu/HPSv2`, an open_clip ViT-H/14. Score =
cosine(image, prompt), as `hpsv2.score` returns it: 0.14 to 0.34 for the systems of the published v2.1
benchmark, whose tables show 100 times the cosine. Compare pictures of one prompt and one version only.

Preprocessing as published, and unlike CLIP's: the longer side to 224, bicubic on the float tensor, the rest
black, nothing cropped. Prompts are cleaned as open_clip does (HTML entities, curly quotes; of what ftfy
repairs beyond that, mojibake, nothing) and cut at 77 tokens. The published code runs under float16 autocast
on a GPU, which rounds its scores at the fourth decimal; these are float32. Its pictures whose longer side is
exactly 224 fail there unless square; here they are padded, as all others.
"""

from __future__ import annotations

import html
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reward_plugin.errors import ConfigError
from reward_plugin.scorers.clip import ClipScorer

if TYPE_CHECKING:
    import PIL.Image

FILES = {"v2.0": "HPS_v2_compressed", "v2.1": "HPS_v2.1_compressed"}
QUOTES = str.maketrans({**dict.fromkeys("ʼ‘’‚‛", "'"), **dict.fromkeys("“”„‟", '"')})


def clean(prompt: str) -> str:
    """A prompt as open_clip's tokenizer cleans it, before it lowers the letters."""
    return html.unescape(html.unescape(prompt.translate(QUOTES))).strip()


class Letterbox:
    """HPSv2's preprocessing in the form of a transformers image processor."""

    def __init__(self, size: int) -> None:
        """Take the side that the model sees, in pixels."""
        self.size = size

    def __call__(self, images: Sequence[PIL.Image.Image], return_tensors: str = "pt") -> Any:
        """What has `pixel_values`, float [n, 3, S, S]."""
        import torch

        from reward_plugin.scorers.pixel_values import letterbox, normalise

        pixels = torch.stack([letterbox(image, self.size) for image in images])
        return types.SimpleNamespace(pixel_values=normalise(pixels))


def build(
    path: str = "xswu/HPSv2",
    version: str = "v2.1",
    clip: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
    revision: str | None = None,
) -> ClipScorer:
    """Load HPSv2.

    Args:
        path: weight file, or folder or hub id that holds HPS_v2.1_compressed.safetensors or .pt.
        version: v2.1 or v2.0: which of the two files; their scores cannot be compared.
        clip: folder or hub id of the same CLIP in transformers' layout, for config.json and tokenizer alone.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        batch_size: pairs per forward pass.
        revision: branch, tag or commit of a hub id given as `path`.
    """
    from transformers import CLIPConfig, CLIPModel

    from reward_plugin.devices import resolve
    from reward_plugin.scorers.clip_folder import load_processing
    from reward_plugin.scorers.open_clip import native_weights
    from reward_plugin.scorers.weights import find_file, into_model, read_weights
    from reward_plugin.source import find_folder

    if version not in FILES:
        raise ConfigError(f"version {version!r}: write {' or '.join(FILES)}")
    where, precision = resolve(device, dtype)
    folder = find_folder(clip, None, ("*.json", "*.txt"))
    tokenizer, _ = load_processing(folder)
    file = find_file(path, (FILES[version],), revision)
    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    model = into_model(CLIPModel, config, native_weights(read_weights(file), file), precision, file).to(where)
    pictures = Letterbox(config.vision_config.image_size)
    return ClipScorer(
        model, tokenizer, pictures, batch_size, name="hpsv2", dimension="hpsv2", factor=1.0, clean=clean
    )
