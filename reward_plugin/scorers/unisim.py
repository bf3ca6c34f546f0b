"""UniSim: prompt adherence, quality and perceptual attributes from one CLIP, tuned on people's judgements.

Ghazanfari et al., arXiv 2412.10594; weights for laion's ViT-B/32 and OpenAI's ViT-L/14-336, and any CLIP as a
baseline. All scores are 100 times what the published formulas give. `unisim_adherence` is the cosine of image
and prompt. `unisim_quality`, `unisim_brightness`, `unisim_colorfulness`, `unisim_contrast` and
`unisim_sharpness` are those of `reward_plugin.unisim.prompts`: the cosine with one text, or the softmax over
that with a text and its opposite. Only differences between pictures have a meaning.

The paper finds the models better than CLIP at choosing between two pictures of one prompt, or by quality, and
worse than CLIP at tasks that they were not tuned on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reward_plugin.errors import ConfigError
from reward_plugin.types import ImageLike, ScoreTable
from reward_plugin.unisim import formulas
from reward_plugin.unisim.prompts import QUANTITIES, texts_for

if TYPE_CHECKING:
    from reward_plugin.unisim.encoder import Encoder

ADHERENCE = "unisim_adherence"
#: Dimension -> the quantity of a picture that it is.
RATINGS: Mapping[str, str] = {f"unisim_{quantity}": quantity for quantity in QUANTITIES}
DIMENSIONS = (ADHERENCE, *RATINGS)
NO_PROMPT = f"no prompt was given, and {ADHERENCE} compares the image with one"
NO_NUMBER = "the model returned a score that is not finite"
#: Of a softmax over two cosines, 1 / (1 + exp(2)) and 1 / (1 + exp(-2)).
SOFTMAX_RANGE = (100 / (1 + float(np.exp(2))), 100 / (1 + float(np.exp(-2))))


class UniSimScorer:
    """Scores images, and images against their prompts, by embeddings: each image is encoded once."""

    name = "unisim"

    def __init__(
        self,
        encoder: Encoder,
        dimensions: Sequence[str] = (ADHERENCE, "unisim_quality"),
        formula: str = "naive",
    ) -> None:
        """Take a loaded encoder; see `build` for the rest."""
        check_dimensions(dimensions)
        self.dimensions = tuple(dimensions)
        self.texts = {name: texts_for(RATINGS[name], formula) for name in dimensions if name in RATINGS}
        self.ranges: Mapping[str, tuple[float, float]] = {
            name: SOFTMAX_RANGE if len(self.texts.get(name, ())) == 2 else (-100.0, 100.0)
            for name in dimensions
        }
        self.encoder = encoder

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image; without its prompt only the adherence is missing."""
        vectors, errors = self.encoder.embed_images(images)
        values = np.full((len(images), len(self.dimensions)), np.nan, dtype=np.float32)
        reasons = list(errors)
        for column, name in enumerate(self.dimensions):
            if name in self.texts:
                values[:, column] = 100 * formulas.rate(vectors, self.encoder.embed_texts(self.texts[name]))
                continue
            prompted = [i for i, text in enumerate(prompts or ()) if text and text.strip()]
            texts = self.encoder.embed_texts([(prompts or ())[i] for i in prompted])
            values[prompted, column] = 100 * formulas.similarity(vectors[prompted], texts)
            for i in set(range(len(images))).difference(prompted):
                reasons[i] = reasons[i] or NO_PROMPT
        missing = np.atleast_1d(np.isnan(values).any(axis=1))
        return ScoreTable(
            self.dimensions,
            values,
            tuple(
                (reason or NO_NUMBER) if gap else None for reason, gap in zip(reasons, missing, strict=True)
            ),
        )


def check_dimensions(dimensions: Sequence[str]) -> None:
    """ConfigError where they are no list of distinct names out of `DIMENSIONS`."""
    if isinstance(dimensions, str) or not dimensions:
        raise ConfigError(f"dimensions {dimensions!r}: write a list of some of {', '.join(DIMENSIONS)}")
    for name in dimensions:
        if name not in DIMENSIONS or list(dimensions).count(name) > 1:
            problem = "it is there twice" if name in DIMENSIONS else f"known are {', '.join(DIMENSIONS)}"
            raise ConfigError(f"dimensions: {name!r}: {problem}")


def build(
    path: str,
    weights: str | None = None,
    dimensions: Sequence[str] = (ADHERENCE, "unisim_quality"),
    formula: str = "naive",
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
    revision: str | None = None,
    alpha: float | None = None,
) -> UniSimScorer:
    """Load a CLIP and UniSim's weights.

    Args:
        path: folder or hub id of the `CLIPModel` that was tuned, with tokenizer and preprocessor_config.json.
        weights: UniSim's published file; an adapter folder; an open_clip file; or the folder of a tuned
            `CLIPModel`. None: the CLIP at `path` as it is.
        dimensions: some of unisim_adherence, unisim_quality, unisim_brightness, unisim_colorfulness,
            unisim_contrast and unisim_sharpness.
        formula: of all but the adherence: naive (cosine with one text, -100 to 100), paper (the same with the
            paper's spelling of it) or clip_iqa (softmax over a text and its opposite, 12 to 88).
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        batch_size: images per forward pass.
        revision: branch, tag or commit of a hub id.
        alpha: LoRA's alpha of a published file that does not say; None: 32 at rank 16.
    """
    check_dimensions(dimensions)
    texts_for("quality", formula)

    from reward_plugin.unisim.encoder import Encoder

    encoder = Encoder.load(path, weights, device, dtype, batch_size, revision, alpha=alpha, cache_items=4096)
    return UniSimScorer(encoder, dimensions, formula)
