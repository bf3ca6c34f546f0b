"""Is the text that the prompt quotes in the picture? 0 (nothing of it) to 1 (there, letter for letter).

The reward of flow_grpo's text task (ocr.py; Liu et al., "Flow-GRPO", arXiv 2505.05470): the target is the
first passage in double quotes, everything is lower-cased without spaces, the recognized lines are joined, and

    score = 1 - min(distance, length of the target) / length of the target,

where distance is Levenshtein's, or 0 where the recognized text contains the target. What differs from the
published code: RapidOCR (PP-OCRv6 on onnxruntime, whose weights come with the package) reads instead of
PaddleOCR, so single scores differ; curly quotes count as quotes, and all white space is removed, not only
spaces; and a picture that cannot be read, or a prompt without a quoted passage, is missing with its reason,
where the published code gives 0 or stops. A picture without any text scores 0.

Needs the extra: pip install 'flow-grpo-perceptual[ocr]'. Apache-2.0, code and weights. Runs on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_plugin.errors import ConfigError
from reward_plugin.scorers.batches import fit_each
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import PIL.Image

NO_TARGET = 'the prompt quotes no text, and ocr looks for what stands in "double quotes"'
#: Longer side over shorter side; RapidOCR brings the shorter one to 736 pixels.
MAX_ASPECT = 20
_QUOTED = re.compile('["“”„‟]([^"“”„‟]*)["“”„‟]')


class OcrScorer:
    """Compares the text in each image with the text quoted in its prompt."""

    name = "ocr"
    dimensions = ("ocr",)
    ranges: Mapping[str, tuple[float, float]] = {"ocr": (0.0, 1.0)}

    def __init__(self, engine: Any) -> None:
        """Take a `rapidocr.RapidOCR`."""
        self.engine = engine

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image for its prompt; one whose prompt quotes nothing is missing."""
        good, errors = fit_each(images, MAX_ASPECT)
        pictures = iter(good)
        values: list[float] = []
        for i, prompt in enumerate(prompts if prompts is not None else [""] * len(errors)):
            if errors[i] is not None:
                continue
            picture, wanted = next(pictures), target(prompt or "")
            if wanted is None:
                errors[i] = NO_TARGET
                continue
            try:
                values.append(similarity(self.read(picture), wanted))
            except Exception as error:  # one picture that the engine fails on must not cost the batch
                errors[i] = f"text recognition failed: {type(error).__name__}: {error}"
        return ScoreTable.computed(self.dimensions, values).scatter(errors)

    def read(self, image: PIL.Image.Image) -> str:
        """All text found in a picture, line by line from the top, joined without anything between."""
        found = self.engine(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]))  # it takes BGR
        return "".join(found.txts or ())


def target(prompt: str) -> str | None:
    """The first quoted passage of a prompt that is not blank, as it is compared; None where there is none."""
    return next((text for text in map(plain, _QUOTED.findall(prompt)) if text), None)


def plain(text: str) -> str:
    """Lower case, without white space."""
    return "".join(text.split()).lower()


def similarity(read: str, wanted: str) -> float:
    """1 where `read` contains `wanted` (of at least one letter), else 1 - edits per letter, at least 0."""
    read, wanted = plain(read), plain(wanted)
    if wanted in read:
        return 1.0
    return 1.0 - min(distance(read, wanted), len(wanted)) / len(wanted)


def distance(a: str, b: str) -> int:
    """Levenshtein's distance: fewest insertions, deletions and substitutions of a letter from `a` to `b`."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def build(threads: int = 0) -> OcrScorer:
    """Load the recognizer, whose weights come with its package.

    Args:
        threads: CPU threads; 0 takes all.
    """
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ConfigError(
            f"scorer 'ocr' needs rapidocr and onnxruntime ({error}); pip install 'flow-grpo-perceptual[ocr]'"
        ) from error
    settings = {
        "Global.use_cls": False,  # turned text does not count, as published
        "Global.log_level": "error",
        "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
    }
    return OcrScorer(RapidOCR(params=settings))
