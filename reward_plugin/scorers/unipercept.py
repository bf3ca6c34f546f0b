"""UniPercept: aesthetics (iaa), quality (iqa), structure and texture richness (ista), each 0 to 100.

Paper: "UniPercept", arXiv 2512.21675. Scores equal those of the published package in float32; in bfloat16
they are not rounded to the steps of 0.25 and 0.5 that the published code's bfloat16 softmax leaves, unless
`precision: published` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reward_plugin.images import Exif
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    from reward_plugin.internvl import RatingEngine


class UniPerceptScorer:
    """Scores images with a rating engine, whatever it asks about them; prompts are not looked at."""

    def __init__(self, engine: RatingEngine, name: str = "unipercept") -> None:
        """Take an engine; its questions name the dimensions."""
        self.name = name
        self.engine = engine
        self.dimensions = engine.dimensions
        self.ranges: Mapping[str, tuple[float, float]] = dict.fromkeys(self.dimensions, (0.0, 100.0))

    def score(
        self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None, *, exif: Exif = "ignore"
    ) -> ScoreTable:
        """Score each image, turned as its orientation tag says with `exif="apply"`; an unreadable one is
        missing and says why.
        """
        values, errors = self.engine.rate_each(images, exif=exif)
        return ScoreTable.computed(self.dimensions, values).scatter(errors)


def build(
    path: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    system_message: str | None = None,
    attention: str = "sdpa",
    revision: str | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    resize: str = "pil",
    quantise: str | None = None,
) -> UniPerceptScorer:
    """Load a UniPercept checkpoint, or share the model with a scorer that has it loaded.

    Args:
        path: folder in the published or the native layout, or a hub id such as `Thunderbolt215215/UniPercept`
            (gated: accept its terms, then `hf auth login`).
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16 or float16.
        batch_size: images per forward pass.
        system_message: replaces the system turn that the checkpoint asks for, which is the config's
            `system_message` where it has that key (null is sent as the text "None", as published), and the
            template's Chinese one otherwise.
        attention: attention implementation of transformers: sdpa, eager, flash_attention_2 or
            flash_attention_3 (those two on CUDA, in 16 bits, with their packages installed).
        revision: branch, tag or commit of a hub id.
        precision: what the score is computed in from the model's last hidden state; float32, or "published":
            the model's dtype, as `unipercept-reward` does, which in bfloat16 rounds scores to steps of 0.25
            to 0.5.
        compile: compile the model's layers with torch.compile, which needs a C++ compiler and takes a minute
            or more at the first batch; scorers that share the model share its compiled vision tower. Text
            names torch.compile's backend.
        resize: "pil", as published, or "torch", on the model's device, which moves scores a little (see
            `reward_plugin.prepare`).
        quantise: fewer bits for the decoder's weights: int8, int4 or fp8 (see `reward_plugin.quantise`); none
            by default.
    """
    from reward_plugin.engines import rating_engine
    from reward_plugin.prompting import UNIPERCEPT_QUESTIONS

    engine = rating_engine(
        UNIPERCEPT_QUESTIONS,
        path,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        system_message=system_message,
        attention=attention,
        revision=revision,
        precision=precision,
        compile=compile,
        resize=resize,
        quantise=quantise,
    )
    return UniPerceptScorer(engine)
