"""LAION's aesthetic predictor, version 2: how much people like the look of a picture, 1 to 10.

Schuhmann, "improved-aesthetic-predictor", 2022: OpenAI's CLIP ViT-L/14 image embedding, divided by its
length, through five linear layers without activation functions, trained on the ratings of SAC, logos and AVA
(`sac+logos+ava1-l14-linearMSE.pth`). Nothing holds the result to 1 to 10, but pictures get about 2 to 8:
LAION's aesthetic subsets begin at 4.5 and 6.5, and FLUX.1-dev reaches about 5.8. Preprocessing as published:
shorter side to 224 by PIL's bicubic, centre crop. The published code runs CLIP in float16 on a GPU; this is
float32. It prefers paintings and bright colours, and is easily fooled as a reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reward_plugin.scorers.batches import check_batch_size, score_images
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import PIL.Image
    from torch import nn
    from transformers import CLIPModel

STEMS = ("sac+logos+ava1-l14-linearMSE", "aesthetic-model")


class LaionScorer:
    """Scores images with CLIP's image embedding and the linear head; prompts are not looked at."""

    name = "laion"
    dimensions = ("laion_aesthetic",)
    ranges: Mapping[str, tuple[float, float]] = {"laion_aesthetic": (1.0, 10.0)}

    def __init__(self, model: CLIPModel, head: nn.Module, batch_size: int = 64) -> None:
        """Take both parts, loaded; `batch_size` images per pass."""
        self.model = model
        self.head = head
        self.batch_size = check_batch_size(batch_size)

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image."""
        return score_images(images, self.dimensions, self.batch_size, self._rate)

    def _rate(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        import torch
        from torch.nn import functional as F

        from reward_plugin.scorers.pixel_values import centre_square, normalise, to_tensor

        size = self.model.config.vision_config.image_size
        pixels = normalise(to_tensor([centre_square(image, size) for image in images]))
        with torch.inference_mode():
            seen = self.model.vision_model(pixels.to(self.model.device, self.model.dtype)).pooler_output
            embedding = F.normalize(self.model.visual_projection(seen).float(), dim=-1)
            return self.head(embedding).cpu().numpy()


def build(
    path: str = "openai/clip-vit-large-patch14",
    head: str = "trl-lib/ddpo-aesthetic-predictor",
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
    revision: str | None = None,
) -> LaionScorer:
    """Load CLIP and the head.

    Args:
        path: folder or hub id of OpenAI's CLIP ViT-L/14 in transformers' layout.
        head: the head's file; or a folder or hub id that holds sac+logos+ava1-l14-linearMSE or
            aesthetic-model, as .safetensors, .pt or .pth.
        device: auto, cpu, cuda or cuda:N.
        dtype: of CLIP: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16. The head is
            float32.
        batch_size: images per forward pass.
        revision: branch, tag or commit of a hub id given as `path`.
    """
    from transformers import CLIPModel

    from reward_plugin.devices import resolve
    from reward_plugin.scorers.clip_folder import load_model
    from reward_plugin.scorers.weights import find_file, linear_stack, read_weights
    from reward_plugin.source import find_folder

    where, precision = resolve(device, dtype)
    model = load_model(CLIPModel, find_folder(path, revision), precision)
    file = find_file(head, STEMS)
    layers = linear_stack(read_weights(file), model.config.projection_dim, file)
    return LaionScorer(model.to(where), layers.to(where), batch_size)
