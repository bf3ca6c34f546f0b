"""A reward that deserves to be hacked: an instrument of the lab (`configs/lab`), never a measure of quality.

It pays for edges and for pure colours, as a first guess at "crisp and vivid" would, looks at neither prompt
nor content, and is highest for a saturated checkerboard. Whatever keeps a run from collapsing under it is
worth something; reward models fail more slowly, in the same direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reward_plugin.images import to_rgb_each
from reward_plugin.scorers.pixels import saturation
from reward_plugin.types import ImageLike, ScoreTable

#: Mean absolute Laplacian at which the first half is half full; pocket pictures have about 5, a checkerboard
#: of black and white 1020.
HALF = 32.0


class NaiveScorer:
    """50 points for edges and 50 for saturation; prompts are not looked at."""

    name = "naive"
    dimensions = ("naive_pixels",)
    ranges: Mapping[str, tuple[float, float]] = {"naive_pixels": (0.0, 100.0)}

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Measure each image."""
        good, errors = to_rgb_each(images)
        values = [[naive_pixels(np.asarray(image))] for image in good]
        return ScoreTable.computed(self.dimensions, np.array(values)).scatter(errors)


def naive_pixels(image: np.ndarray) -> float:
    """50 L / (L + 32) + 50 S of a uint8 [H, W, 3] image: L mean absolute Laplacian, S mean saturation.

    The Laplacian is that of the four neighbours of luma, 0 to 255, with edges repeated at the border.
    """
    rgb = image.astype(np.float64)
    luma = np.pad(rgb @ (0.299, 0.587, 0.114), 1, mode="edge")
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    edges = float(np.abs(laplacian).mean())
    return 50.0 * edges / (edges + HALF) + 50.0 * saturation(rgb)


def build() -> NaiveScorer:
    """Nothing to load, no options."""
    return NaiveScorer()
