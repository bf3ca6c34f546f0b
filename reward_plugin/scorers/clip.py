"""Prompt adherence from CLIP: 100 times the cosine between the embeddings of image and prompt.

Hessel et al., "CLIPScore", arXiv 2104.08718. Held-out measure of whether a tuned model still paints what was
asked: log it and stop on it, do not train on it. ViT-L/14 gives 15 to 35 to generated pictures.

`formula: clipscore` is the paper's number instead: 2.5 * max(cosine, 0), 0 to 2.5, of the prompt behind
"A photo depicts " (the paper uses ViT-B/32). torchmetrics' CLIP score is max(adherence, 0), its average over
pictures cut at 0 instead of each picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_plugin.errors import ConfigError
from reward_plugin.scorers.batches import check_batch_size, score_pairs
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import PIL.Image
    from transformers import CLIPModel, CLIPTokenizer

PREFIX = "A photo depicts "


class ClipScorer:
    """Scores images against their prompts with a `CLIPModel`: a factor times the cosine."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        processor: Any,
        batch_size: int = 64,
        *,
        name: str = "clip",
        dimension: str = "adherence",
        factor: float = 100.0,
        lowest: float | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        """Take a loaded model and what feeds it.

        Args:
            processor: called with images, returns what has `pixel_values`, as transformers' PIL processors
                do.
            batch_size: pairs per forward pass.
            name: name of the scorer.
            dimension: name of its one column.
            factor: what the cosine is multiplied by.
            lowest: lower scores are raised to this one.
            clean: applied to every prompt before it is tokenized.
        """
        self.name = name
        self.dimensions = (dimension,)
        self.ranges: Mapping[str, tuple[float, float]] = {
            dimension: (-factor if lowest is None else lowest, factor)
        }
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.batch_size = check_batch_size(batch_size)
        self.factor = factor
        self.lowest = lowest
        self.clean = clean

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image against its prompt; one without a prompt is missing."""
        reason = f"no prompt was given, and {self.dimensions[0]} compares the image with one"
        return score_pairs(images, prompts, self.dimensions, self.batch_size, self._rate, reason)

    def _rate(self, images: Sequence[PIL.Image.Image], texts: Sequence[str]) -> np.ndarray:
        import torch

        tokens = self.tokenizer(
            [self.clean(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        pixels = self.processor(list(images), return_tensors="pt").pixel_values
        with torch.inference_mode():
            output = self.model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                pixel_values=pixels.to(self.model.device, self.model.dtype),
            )
        # the model normalises in its own dtype; in bfloat16 that alone moves the cosine in the third digit
        cosine = torch.cosine_similarity(output.image_embeds.float(), output.text_embeds.float(), dim=-1)
        return np.maximum(self.factor * cosine.cpu().numpy(), -np.inf if self.lowest is None else self.lowest)


def build(
    path: str,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
    revision: str | None = None,
    formula: str = "cosine",
) -> ClipScorer:
    """Load a `CLIPModel`.

    Args:
        path: folder with model, tokenizer and preprocessor_config.json; or a hub id.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        batch_size: pairs per forward pass.
        revision: branch, tag or commit of a hub id.
        formula: cosine (dimension `adherence`, 100 times the cosine) or clipscore (dimension `clip_score`).
    """
    from transformers import CLIPModel

    from reward_plugin.devices import resolve
    from reward_plugin.scorers.clip_folder import load_model, load_processing
    from reward_plugin.source import find_folder

    if formula not in ("cosine", "clipscore"):
        raise ConfigError(f"formula {formula!r}: write cosine (100 times it), or clipscore (the paper's)")
    where, precision = resolve(device, dtype)
    folder = find_folder(path, revision)
    tokenizer, processor = load_processing(folder)
    model = load_model(CLIPModel, folder, precision).to(where)
    if formula == "cosine":
        return ClipScorer(model, tokenizer, processor, batch_size)
    return ClipScorer(
        model,
        tokenizer,
        processor,
        batch_size,
        dimension="clip_score",
        factor=2.5,
        lowest=0.0,
        clean=lambda prompt: PREFIX + prompt,
    )
