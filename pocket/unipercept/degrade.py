"""Degradations with a severity in 0..1 (0: unchanged), from camera and codec to VAE, diffusion and reward
hacking.

Each function takes a float picture [64, 64, 3] in 0..1, a severity and a generator, and returns the same
shape. `WEIGHTS` says how much each takes off IAA, IQA and ISTA (see `labels`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Array = NDArray[np.float64]
Degradation = Callable[[Array, float, Generator], Array]
SIZE = 64


def _to_image(picture: Array) -> Image.Image:
    return Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))


def _from_image(image: Image.Image) -> Array:
    return np.asarray(image, dtype=np.float64) / 255


def field(rng: Generator, scale: float, channels: int = 1) -> Array:
    """Smooth random field of unit variance, [64, 64, channels], with features of about `scale` px."""
    plane = ndimage.gaussian_filter(
        rng.standard_normal((SIZE, SIZE, channels)), (scale, scale, 0), mode="wrap"
    )
    return plane / (plane.std() + 1e-9)


def pattern(rng: Generator) -> Array:
    """A periodic pattern in -1..1, [64, 64, 3]: stripes, dots, checkers or moire; period 2 to 12 px; grey
    or coloured.
    """
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    period = float(rng.choice([2, 3, 4, 4, 5, 6, 8, rng.uniform(2.2, 12)]))
    angle = rng.choice([0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)])
    phase = rng.uniform(0, 2 * np.pi, (2, 3) if rng.random() < 0.4 else (2, 1))
    u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / (period * rng.choice([1, 1, 1, 1.5]))
    first, second = np.cos(u[..., None] + phase[0]), np.cos(v[..., None] + phase[1])
    kind = rng.integers(4)
    if kind == 0:
        wave = first
    elif kind == 1:
        wave = first * second
    elif kind == 2:
        wave = np.maximum(first + second, 0) * 1.5 - 1
    else:
        wave = np.cos(1.1 * u[..., None] + phase[0] + 2 * np.cos(0.15 * v[..., None])) * first
    if rng.random() < 0.4:
        wave = np.tanh(4 * wave)
    wave = wave - wave.mean()
    tint = rng.uniform(-1, 1, 3) if rng.random() < 0.5 else np.ones(3)
    return np.broadcast_to(wave, (SIZE, SIZE, 3)) * tint / (np.abs(tint).max() + 1e-9)


def blur(picture: Array, s: float, rng: Generator) -> Array:
    """Gaussian blur, sigma = 3 s^0.75 px."""
    sigma = 3 * s**0.75
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="nearest")


def noise(picture: Array, s: float, rng: Generator) -> Array:
    """White Gaussian noise per channel, standard deviation 60 s of 255."""
    return picture + rng.standard_normal(picture.shape) * s * 60 / 255


def jpeg(picture: Array, s: float, rng: Generator) -> Array:
    """JPEG, quality 3 + 92 (1 - s)^1.5; severity 0 stays unencoded."""
    if s <= 0:
        return picture
    buffer = io.BytesIO()
    _to_image(picture).save(buffer, "JPEG", quality=round(3 + 92 * (1 - s) ** 1.5))
    return _from_image(Image.open(buffer))


def downscale(picture: Array, s: float, rng: Generator) -> Array:
    """Down to 64 / (1 + 3 s) px and back, by a random filter each way."""
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
    small = round(SIZE / (1 + 3 * s))
    down, up = rng.integers(2), rng.integers(3)
    return _from_image(
        _to_image(picture).resize((small, small), filters[down]).resize((SIZE, SIZE), filters[up])
    )


def posterise(picture: Array, s: float, rng: Generator) -> Array:
    """Quantise each channel to 2 + 40 (1 - s)^3 levels."""
    levels = 1 + 40 * (1 - s) ** 3
    return np.round(np.clip(picture, 0, 1) * levels) / levels


def oversaturate(picture: Array, s: float, rng: Generator) -> Array:
    """Chroma times 1 + 3 s and contrast times 1 + s, clipped."""
    grey = picture.mean(-1, keepdims=True)
    picture = grey + (picture - grey) * (1 + 3 * s)
    return np.clip((picture - 0.5) * (1 + s) + 0.5, 0, 1)


def ringing(picture: Array, s: float, rng: Generator) -> Array:
    """Over-sharpening: unsharp mask of amount 5 s at radius 0.8 to 2 px, which leaves halos."""
    sigma = rng.uniform(0.8, 2.0)
    return picture + 5 * s * (picture - ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="nearest"))


def warp(picture: Array, s: float, rng: Generator) -> Array:
    """Elastic distortion: displacement of 4.5 s px standard deviation over features of 3 to 7 px."""
    shift = field(rng, rng.uniform(3, 7), 2) * 4.5 * s
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    where = (y + shift[..., 0], x + shift[..., 1])
    return np.stack(
        [ndimage.map_coordinates(picture[..., c], where, order=1, mode="nearest") for c in range(3)], -1
    )


def smear(picture: Array, s: float, rng: Generator) -> Array:
    """Blotchy loss of detail: median filter 3 to 9 px wide, blended in, then a short warp."""
    size = 3 + 2 * min(3, int(s * 4))
    flat = ndimage.median_filter(picture, (size, size, 1), mode="nearest")
    return warp(picture + (flat - picture) * min(1.0, 0.3 + 2 * s) * (s > 0), 0.35 * s, rng)


def missing(picture: Array, s: float, rng: Generator) -> Array:
    """Parts gone: soft ellipses over the middle, together 10 to 45 % of its area, filled with a border
    colour.
    """
    fill = picture[rng.integers(4), rng.integers(SIZE)]
    y, x = np.mgrid[:SIZE, :SIZE]
    for _ in range(1 + rng.integers(3)):
        cy, cx = rng.uniform(12, 52, 2)
        ry, rx = rng.uniform(0.6, 1.4, 2) * (2 + 13 * s)
        inside = np.clip(1.5 * (1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2), 0, 1)[..., None] * (s > 0)
        picture = picture * (1 - inside) + fill * inside
    return picture


def shatter(picture: Array, s: float, rng: Generator) -> Array:
    """Fragments: three to seven soft round pieces of the middle, 4 to 9 px wide, pushed 14 s px away."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    for _ in range(3 + rng.integers(5)):
        cy, cx = rng.uniform(16, 48, 2)
        radius, angle = rng.uniform(2, 4.5), rng.uniform(0, 2 * np.pi)
        dy, dx = 14 * s * np.sin(angle), 14 * s * np.cos(angle)
        inside = np.clip(2 * (1 - np.hypot(y - cy - dy, x - cx - dx) / radius), 0, 1)[..., None] * (s > 0)
        moved = ndimage.shift(picture, (dy, dx, 0), order=1, mode="nearest")
        picture = picture * (1 - inside) + moved * inside
    return picture


def dither(picture: Array, s: float, rng: Generator) -> Array:
    """Ordered (Bayer) or random dithering to 2 to 4 levels, blended in by s."""
    bayer = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 0.47
    ordered = np.tile(bayer, (SIZE // 4, SIZE // 4))[..., None]
    threshold = ordered if rng.random() < 0.6 else rng.uniform(-0.5, 0.5, picture.shape)
    levels = int(rng.integers(1, 4))
    return picture + s * (np.clip(np.round(picture * levels + threshold), 0, levels) / levels - picture)


def grid(picture: Array, s: float, rng: Generator) -> Array:
    """A periodic pattern added, multiplied in, or painted in place of the subject; amplitude 0.5 s."""
    wave = pattern(rng)
    mode = rng.integers(3)
    if mode == 0:
        return picture + 0.5 * s * wave
    if mode == 1:
        return picture * (1 + s * wave)
    where = np.clip(field(rng, 8) + 0.7, 0, 1)
    return picture + s * where * wave * 0.6


def wash_out(picture: Array, s: float, rng: Generator) -> Array:
    """Contrast times 1 - 0.9 s towards a grey between 0.3 and 1."""
    return picture + (rng.uniform(0.3, 1.0) - picture) * 0.9 * s


def expose(picture: Array, s: float, rng: Generator) -> Array:
    """Too bright or too dark by up to two and a half stops, clipped."""
    return np.clip(picture * 2 ** (rng.choice([-2.5, 2.5]) * s), 0, 1)


def blotch(picture: Array, s: float, rng: Generator) -> Array:
    """Coloured stains of 2 to 10 px, amplitude 0.3 s."""
    return picture + 0.3 * s * field(rng, rng.uniform(2, 10), 3)


DEGRADATIONS: Mapping[str, Degradation] = {
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "downscale": downscale,
    "posterise": posterise,
    "oversaturate": oversaturate,
    "ringing": ringing,
    "warp": warp,
    "smear": smear,
    "missing": missing,
    "dither": dither,
    "grid": grid,
    "wash_out": wash_out,
    "expose": expose,
    "blotch": blotch,
}

WEIGHTS: Mapping[str, tuple[float, float, float]] = {  # (iaa, iqa, ista) lost at severity 1, in nepers
    "blur": (1.2, 2.2, 1.6),
    "noise": (1.3, 2.2, 1.4),
    "jpeg": (1.1, 1.9, 1.2),
    "downscale": (1.2, 2.2, 1.6),
    "posterise": (0.8, 1.4, 0.7),
    "oversaturate": (1.5, 1.2, 0.6),
    "ringing": (1.1, 1.7, 1.0),
    "warp": (1.2, 1.4, 1.0),
    "smear": (1.2, 2.0, 1.5),
    "missing": (0.9, 0.8, 0.7),
    "dither": (1.5, 2.2, 1.6),
    "grid": (3.0, 3.2, 3.2),
    "wash_out": (1.4, 1.2, 1.2),
    "expose": (1.2, 1.1, 0.8),
    "blotch": (1.6, 1.7, 1.2),
}


#: Only in the ladders of things (see `ladders.draw_malformed`), not among the degradations drawn at random.
FURTHER: Mapping[str, Degradation] = {"shatter": shatter}
MALFORMING = ("warp", "missing", "shatter")
_ALL_WEIGHTS = {**WEIGHTS, "shatter": (1.2, 1.6, 1.0), "repainted": (1.3, 1.8, 1.3)}


def impairment(applied: Mapping[str, float]) -> tuple[float, float, float]:
    """(iaa, iqa, ista) losses of {degradation: severity}, in nepers: the argument of `labels.rate`."""
    losses = [tuple(weight * s for weight in _ALL_WEIGHTS[name]) for name, s in applied.items()]
    iaa, iqa, ista = (sum(loss[d] for loss in losses) for d in range(3))
    return iaa, iqa, ista


def degrade(pixels: NDArray[np.uint8], applied: Mapping[str, float], rng: Generator) -> NDArray[np.uint8]:
    """Apply {degradation: severity} in the mapping's order to a uint8 [64, 64, 3] picture."""
    picture = pixels.astype(np.float64) / 255
    for name, severity in applied.items():
        picture = np.clip((DEGRADATIONS.get(name) or FURTHER[name])(picture, severity, rng), 0, 1)
    return (picture * 255 + 0.5).astype(np.uint8)
