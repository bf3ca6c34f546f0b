"""An ablation's charts: what one quantity cost in another, with its Pareto front, and curves side by side.

Points and lines carry their variant's number, and an id that ends in `variant-<number>` for the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.plots import BASE, INK, LINE, MUTED, RAMP, TUNED, as_svg

_SIZE = (5.6, 4.0)


@dataclass(frozen=True)
class Point:
    """One variant in a chart of two quantities.

    Attributes:
        number: Its place in the table.
        name: For screen readers.
        x: Mean and interval, {mean, low, high}; the ends are None with one seed.
        y: Likewise.
        color: Value that is shown as colour, or None.
        reference: Whether the others are compared with it.
    """

    number: int
    name: str
    x: Mapping[str, float | None]
    y: Mapping[str, float | None]
    color: float | None = None
    reference: bool = False


def pareto_front(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Places of the points that no other is better than in both, by rising x; of equal points all."""
    points = list(zip(x, y, strict=True))
    return sorted(
        (
            place
            for place, (a, b) in enumerate(points)
            if not any(c >= a and d >= b and (c > a or d > b) for c, d in points)
        ),
        key=lambda place: points[place],
    )


def whiskers(point: Point) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The intervals of a point that has them, as x and y of both ends: along x first."""
    x, y = float(point.x["mean"] or 0.0), float(point.y["mean"] or 0.0)
    found = []
    if point.x["low"] is not None and point.x["high"] is not None:
        found.append(((point.x["low"], point.x["high"]), (y, y)))
    if point.y["low"] is not None and point.y["high"] is not None:
        found.append(((x, x), (point.y["low"], point.y["high"])))
    return found


def color_steps(values: Sequence[float | None]) -> list[float]:
    """Ends of the steps of equal width that the colours stand for: one more than there are colours."""
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    return [float(end) for end in np.linspace(low, high if high > low else low + 1.0, len(RAMP) + 1)]


def trade_off(
    identity: str, points: Sequence[Point], labels: tuple[str, str], bound: float | None = None
) -> str:
    """Every variant's mean with its intervals; the front is a line, the reference is hollow.

    Args:
        identity: Unique on the page.
        points: At least one.
        labels: Of the two axes.
        bound: Smallest x that is allowed, drawn as a line.
    """
    means = [(float(p.x["mean"] or 0.0), float(p.y["mean"] or 0.0)) for p in points]
    front = pareto_front(*zip(*means, strict=True))
    ends = color_steps([point.color for point in points])

    def draw(axes: Any) -> None:
        for value, line in ((0.0, axes.axhline), (0.0, axes.axvline)):
            line(value, color=LINE, linewidth=0.9)
        if bound is not None:
            axes.axvline(bound, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
        axes.plot(*zip(*(means[place] for place in front), strict=True), color=MUTED, linewidth=1.0)
        for point, (x, y) in zip(points, means, strict=True):
            color = BASE if point.reference else TUNED
            if point.color is not None:
                color = RAMP[min(int(np.searchsorted(ends, point.color, "right")) - 1, len(RAMP) - 1)]
            for whisker in whiskers(point):
                axes.plot(*whisker, color=color, linewidth=1.0, alpha=0.45)
            face = "none" if point.reference else color
            axes.plot(
                x, y, "o", color=color, markerfacecolor=face, markersize=5.5, gid=f"variant-{point.number}"
            )
            axes.annotate(
                str(point.number), (x, y), (4, 3), textcoords="offset points", color=INK, fontsize=8
            )
        # By the means: with two or three seeds an interval can be many times as wide as all of them.
        for values, limits in zip(zip(*means, strict=True), (axes.set_xlim, axes.set_ylim), strict=True):
            low, high = min(*values, 0.0), max(*values, 0.0)
            limits(low - 0.12 * (high - low or 1.0), high + 0.12 * (high - low or 1.0))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])

    best = ", ".join(points[place].name for place in front)
    return as_svg(identity, f"{labels[1]} against {labels[0]}; on the front: {best}", draw, _SIZE)


def curves(
    identity: str,
    label: str,
    lines: Mapping[int, tuple[Sequence[float], Sequence[float]]],
    reference: int | None,
) -> str:
    """One quantity over iterations, a line for each variant.

    Args:
        identity: Unique on the page.
        label: The quantity.
        lines: Variant's number -> iterations and values; at least one.
        reference: Number of the variant that is drawn in grey.
    """

    def draw(axes: Any) -> None:
        for number, (steps, values) in lines.items():
            style = {
                "color": BASE if number == reference else TUNED,
                "alpha": 1.0 if number == reference else 0.55,
            }
            axes.plot(steps, values, linewidth=1.3, gid=f"variant-{number}", **style)
            axes.annotate(
                str(number),
                (steps[-1], values[-1]),
                (4, -3),
                textcoords="offset points",
                color=INK,
                fontsize=8,
            )
        axes.set_xlabel("iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=LINE, linewidth=0.8)

    ends = [values[-1] for _, values in lines.values()]
    words = (
        f"{label} over iterations, {len(lines)} variants, at the end from {min(ends):.4g} to {max(ends):.4g}"
    )
    return as_svg(identity, words, draw, _SIZE)
