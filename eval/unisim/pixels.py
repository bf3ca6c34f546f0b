"""What can be chosen by subtracting pixels: the floor that a perceptual metric has to be above.

`img_2afc` and `ooo` by negative root mean square error and by SSIM; `iqa` by sharpness; `paa` by the plainest
statistic of each attribute. No text is looked at, and nothing is searched for.

Shapes: [H, W, 3] uint8 pictures; luma is 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import PIL.Image

from eval.unisim.parts import first_problem
from eval.unisim.samples import Attribute
from eval.unisim.tasks import ONLY, Undefined, Values
from reward_plugin.errors import BadImage
from reward_plugin.images import to_rgb
from reward_plugin.scorers.pixels import colourfulness, sharpness

#: Pictures are brought to this length of the longer side before they are compared with another.
SIDE = 256
#: Of SSIM: the window's side, and the constants for values 0 to 255 (Wang et al. 2004).
WINDOW, C1, C2 = 7, (0.01 * 255) ** 2, (0.03 * 255) ** 2
#: Decoded pictures that are kept; those of one reference follow each other.
KEPT = 64


def luma(rgb: np.ndarray) -> np.ndarray:
    """Weighted sum of the channels, float64 [H, W], 0 to 255."""
    return rgb.astype(np.float64) @ (0.299, 0.587, 0.114)


def negative_rmse(first: np.ndarray, second: np.ndarray) -> float:
    """Minus the root mean square error of two pictures of one size: -255 to 0, equal pictures have 0."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    return -float(np.sqrt((difference * difference).mean()))


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of the luma of two pictures of one size: up to 1, which equal pictures have.

    Wang et al., IEEE TIP 13, 2004, with a flat window of 7 by 7 pixels and sample covariances, as
    scikit-image's default; the mean is over windows that lie inside. Of smaller pictures the window shrinks.
    """
    x, y = luma(first), luma(second)
    side = min(WINDOW, *x.shape)
    count = side * side
    mean_x, mean_y = _windows(x, side), _windows(y, side)
    scale = count / max(count - 1, 1)
    var_x = scale * (_windows(x * x, side) - mean_x * mean_x)
    var_y = scale * (_windows(y * y, side) - mean_y * mean_y)
    covariance = scale * (_windows(x * y, side) - mean_x * mean_y)
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    below = (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    return float((above / below).mean())


def _windows(values: np.ndarray, side: int) -> np.ndarray:
    """Mean of every window [H - side + 1, W - side + 1], by running sums."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return sums / (side * side)


#: How alike two pictures of one size are.
LIKENESS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"rmse": negative_rmse, "ssim": ssim}
#: How much of an attribute a picture has; None: its quality.
STATISTICS: dict[Attribute | None, Callable[[np.ndarray], float]] = {
    None: lambda rgb: sharpness(rgb.astype(np.float64)),
    "brightness": lambda rgb: float(luma(rgb).mean()),
    "colorfulness": lambda rgb: colourfulness(rgb.astype(np.float64)),
    "contrast": lambda rgb: float(luma(rgb).std()),
    "sharpness": lambda rgb: sharpness(rgb.astype(np.float64)),
}


class PixelJudge:
    """Chooses by pixels; see `eval.unisim.tasks.Judge`."""

    def __init__(
        self,
        path: Callable[[str], str],
        look: Callable[[], Mapping[str, str]],
        measured: dict[str, Mapping[Attribute | None, float]] | None = None,
    ) -> None:
        """Take what is needed.

        Args:
            path: Where a picture's file is.
            look: Finds out what is wrong with some.
            measured: Path -> all statistics; filled here, and shared between the judges of several data sets,
                so that a picture that several of them show is decoded once.
        """
        self._path = path
        self._look = look
        self._measured = {} if measured is None else measured
        self._small = lru_cache(KEPT)(self._decoded_small)

    def alike(self, first: Sequence[str], second: Sequence[str]) -> Values:
        """Negative RMSE and SSIM, both pictures at the smaller one's sides, at most 256 pixels long."""
        found = {name: np.full(len(first), np.nan) for name in LIKENESS}
        for at, names in enumerate(zip(first, second, strict=True)):
            pictures = [self._small(name) for name in names]
            if all(picture is not None for picture in pictures):
                a, b = _same_size(*(picture for picture in pictures if picture is not None))
                for name, likeness in LIKENESS.items():
                    found[name][at] = likeness(a, b)
        return found

    def fits(self, images: Sequence[str], texts: Sequence[str]) -> Values:
        """Undefined."""
        raise Undefined("pixels say nothing about a text")

    def shows(self, images: Sequence[str], attribute: Attribute | None) -> Values:
        """The attribute's statistic, of each picture at its own size."""
        return {ONLY: np.array([self._measure(name).get(attribute, np.nan) for name in images])}

    def why(self, images: Sequence[str], texts: Sequence[str]) -> str | None:
        """What is wrong with the first broken one."""
        return first_problem(images, self._broken)

    def _measure(self, name: str) -> Mapping[Attribute | None, float]:
        path = self._path(name)
        if path not in self._measured:
            picture = self._decoded(name)
            if picture is None:
                return {}
            pixels = np.asarray(picture)
            self._measured[path] = {about: measure(pixels) for about, measure in STATISTICS.items()}
        return self._measured[path]

    @cached_property
    def _broken(self) -> dict[str, str]:
        return dict(self._look())

    def _decoded(self, name: str) -> PIL.Image.Image | None:
        if name in self._broken:
            return None
        try:
            return to_rgb(self._path(name))
        except BadImage as error:
            self._broken[name] = str(error).removeprefix(f"{self._path(name)}: ")
            return None

    def _decoded_small(self, name: str) -> PIL.Image.Image | None:
        picture = self._decoded(name)
        if picture is not None and max(picture.size) > SIDE:
            scale = SIDE / max(picture.size)
            picture = _resized(picture, [max(1, round(scale * side)) for side in picture.size])
        return picture


def _same_size(first: PIL.Image.Image, second: PIL.Image.Image) -> tuple[np.ndarray, np.ndarray]:
    size = [min(sides) for sides in zip(first.size, second.size, strict=True)]
    return np.asarray(_resized(first, size)), np.asarray(_resized(second, size))


def _resized(picture: PIL.Image.Image, size: Sequence[int]) -> PIL.Image.Image:
    width, height = size
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
