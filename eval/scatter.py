"""Scores against ratings as a small SVG that takes its colours and font from the page around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from eval.correlation import Logistic

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 340, 260, 46, 10, 10, 40


def scatter(
    points: Sequence[Sequence[float]], fit: Logistic | None, label: str, score: str, rating: str = "rating"
) -> str:
    """Each picture as a dot, the fitted logistic as a line.

    Args:
        points: (score, rating) of each picture, finite; at least one.
        fit: The curve, drawn over the range of the scores; none: no line.
        label: What a screen reader says.
        score: Name of the horizontal axis.
        rating: Name of the vertical axis.
    """
    x, y = np.asarray(points, dtype=np.float64).T
    (low_x, high_x), (low_y, high_y) = _range(x), _range(y)

    def across(value: float) -> float:
        return _LEFT + (value - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)

    base, parts = _HEIGHT - _BOTTOM, []
    for tick in ticks(low_y, high_y):
        at = down(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in ticks(low_x, high_x):
        parts.append(
            f'<text x="{across(tick):.1f}" y="{base + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    dots = "".join(f"M{across(a):.1f} {down(b):.1f}h0" for a, b in zip(x, y, strict=True))
    parts.append(f'<path class="dots" d="{dots}"/>')
    if fit is not None:
        places = np.linspace(x.min(), x.max(), 60)
        line = "L".join(
            f"{across(a):.1f} {min(max(down(b), _TOP), base):.1f}"
            for a, b in zip(places, fit(places), strict=True)
        )
        parts.append(f'<path class="fit" d="M{line}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>')
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(score)}</text>')
    half = (_TOP + base) / 2
    upright = f'x="12" y="{half}" text-anchor="middle" transform="rotate(-90 12 {half})"'
    parts.append(f"<text {upright}>{escape(rating)}</text>")
    return (
        f'<svg class="scatter" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in [low, high], about so many."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.5
    return low - margin, high + margin


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−") if abs(value) > 1e-12 else "0"
