"""Statistics of the pixels alone: cheap witnesses of reward hacking, not measures of quality.

A policy that over-saturates, blurs or paints periodic dots moves these long before a person looks at the
samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from reward_plugin.images import to_rgb_each
from reward_plugin.types import ImageLike, ScoreTable

#: A spectral line counts as a peak when it holds this many times the median of its frequency ring. In white
#: noise, whose lines are exponentially distributed, one line in a million does.
PEAK_OVER_MEDIAN = 20.0
#: Periods up to four pixels: at least this many cycles per pixel along one axis.
NEAR_NYQUIST = 0.25
#: Grids are looked for in at most this many pixels along each side, in the middle.
MIDDLE = 1024


class PixelScorer:
    """Colourfulness, saturation, sharpness and grid energy of each image; prompts are not looked at."""

    name = "pixels"
    dimensions = ("colourfulness", "saturation", "sharpness", "grid_energy")
    ranges: Mapping[str, tuple[float, float]] = {
        "colourfulness": (0.0, 377.0),
        "saturation": (0.0, 1.0),
        "sharpness": (0.0, 14.0),
        "grid_energy": (0.0, 1.0),
    }

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Measure each image."""
        good, errors = to_rgb_each(images)
        values = [pixel_statistics(np.asarray(image)) for image in good]
        return ScoreTable.computed(self.dimensions, np.array(values)).scatter(errors)


def pixel_statistics(image: np.ndarray) -> tuple[float, float, float, float]:
    """The four statistics of a uint8 [H, W, 3] image, in the order of `PixelScorer.dimensions`."""
    planes = np.moveaxis(image, -1, 0).astype(np.float64, order="C")  # channels apart: three times as fast
    rgb = np.moveaxis(planes, 0, -1)
    return colourfulness(rgb), saturation(rgb), sharpness(rgb), grid_energy(rgb)


def colourfulness(rgb: np.ndarray) -> float:
    """Hasler and Süsstrunk 2003, for values 0 to 255: 0 is grey, 15 slightly, 45 quite, over 100 extremely
    colourful.
    """
    red, green, blue = np.moveaxis(rgb, -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def saturation(rgb: np.ndarray) -> float:
    """Mean HSV saturation, 0 (grey) to 1 (pure colours)."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return float(np.divide(high - low, high, out=np.zeros_like(high), where=high > 0).mean())


def sharpness(rgb: np.ndarray) -> float:
    """ln(1 + variance of the 4-neighbour Laplacian of luma), luma 0 to 255: 0 is flat, white noise reaches 11
    to 13.
    """
    red, green, blue = np.moveaxis(rgb, -1, 0)
    luma = np.pad(0.299 * red + 0.587 * green + 0.114 * blue, 1, mode="edge")
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    return float(np.log1p(laplacian.var()))


def grid_energy(rgb: np.ndarray) -> float:
    """Share of spectral energy in peaks near the Nyquist frequency, 0 to 1: dot grids and checkerboards.

    Per channel, without its mean, under a Hann window (which keeps the image borders from ringing). A line is
    a peak when it stands out from the median of its ring of frequencies. Natural pictures stay below 0.01.
    Of a picture that is larger, the middle 1024 by 1024 pixels count.
    """
    top, left = (max(0, (side - MIDDLE) // 2) for side in rgb.shape[:2])
    rgb = rgb[top : top + MIDDLE, left : left + MIDDLE]
    height, width = rgb.shape[:2]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    half = np.zeros((height, width // 2 + 1))
    for plane in np.moveaxis(rgb, -1, 0):
        flat = plane - (plane * window).sum() / window.sum()
        half += np.abs(np.fft.rfft2(flat * window)) ** 2
    # the other half is the same, turned by 180 degrees; which row a line is in makes no difference below
    power = np.concatenate([half, half[:, 1 : (width + 1) // 2][:, ::-1]], axis=1)
    total = power.sum()
    if total < 1e-6 * power.size:  # a flat image
        return 0.0
    ring, order, ends, near = _rings(height, width)
    parts = np.split(power.ravel()[order], ends)
    median = np.array([np.median(part) if len(part) else 0.0 for part in parts])
    return float(power[near & (power > PEAK_OVER_MEDIAN * median[ring])].sum() / total)


@lru_cache(maxsize=4)
def _rings(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rings of equal frequency in a spectrum [H, W].

    Returns:
        the ring of each line [H, W]; lines sorted by ring [H * W] and where in them each ring but the last
        ends; which lines are near the Nyquist frequency [H, W].
    """
    fy, fx = np.abs(np.fft.fftfreq(height))[:, None], np.abs(np.fft.fftfreq(width))[None, :]
    ring = np.round(np.hypot(fy, fx) * 32).astype(int)
    ends = np.cumsum(np.bincount(ring.ravel()))[:-1]
    return ring, np.argsort(ring.ravel(), kind="stable"), ends, np.maximum(fy, fx) >= NEAR_NYQUIST


def build() -> PixelScorer:
    """Nothing to load, no options."""
    return PixelScorer()
