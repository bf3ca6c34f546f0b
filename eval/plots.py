"""Charts as SVG that takes its colours and fonts from the page around it, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval.curves import Curve

# Colours that matplotlib is given, and the page's variables that replace them in the SVG.
INK, MUTED, LINE, BASE, TUNED = "#010101", "#020202", "#030303", "#040404", "#050505"
#: From the lowest to the highest.
RAMP = ("#010102", "#010103", "#010104", "#010105", "#010106")
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", BASE: "--base", TUNED: "--tuned"}
_VARIABLES |= {color: f"--ramp-{place}" for place, color in enumerate(RAMP)}
_SIZE = (4.4, 2.5)
_BINS = 22


def distribution(name: str, base: Sequence[float], tuned: Sequence[float]) -> str:
    """Both sides' scores as overlaid histograms with their means; finite values, at least one each."""

    def draw(axes: Any) -> None:
        low, high = float(np.min([*base, *tuned])), float(np.max([*base, *tuned]))
        margin = 0.04 * (high - low) or 0.5
        bins = np.linspace(low - margin, high + margin, _BINS + 1)
        for values, color in ((base, BASE), (tuned, TUNED)):
            axes.hist(values, bins=bins, histtype="stepfilled", color=color, alpha=0.28)
            axes.hist(values, bins=bins, histtype="step", color=color, linewidth=1.3)
            axes.axvline(float(np.mean(values)), color=color, linewidth=1.6, linestyle=(0, (3, 2)))
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)

    label = f"Distribution of {name}: base mean {np.mean(base):.1f}, tuned mean {np.mean(tuned):.1f}"
    return as_svg(f"distribution-{name}", label, draw)


def curve(data: Curve, kept: int | None = None) -> str:
    """One quantity over iterations: training as a thin line, validation as a line with points.

    Args:
        data: The quantity.
        kept: Iteration whose weights were kept, marked by a dotted line.
    """

    def draw(axes: Any) -> None:
        if data.training:
            axes.plot(data.training.steps, data.training.values, color=BASE, linewidth=1.2)
        if data.validation:
            marker = {"marker": "o", "markersize": 3.6, "markeredgewidth": 0}
            axes.plot(data.validation.steps, data.validation.values, color=TUNED, linewidth=1.8, **marker)
        if kept is not None:
            axes.axvline(kept, color=INK, linewidth=1.1, linestyle=(0, (1, 2)))
        axes.set_xlabel("iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=LINE, linewidth=0.8)

    parts = [
        f"{part} from {series.values[0]:.4g} to {series.values[-1]:.4g}"
        for part, series in (("training", data.training), ("validation", data.validation))
        if series
    ]
    return as_svg(f"curve-{data.name}", f"{data.name} over iterations: {', '.join(parts)}", draw)


def progress(name: str, points: Sequence[tuple[float, float, float, float]]) -> str:
    """A dimension over the checkpoints of a run: means, and intervals of their difference from the base.

    Args:
        name: Of the dimension.
        points: Iteration, mean, lower and upper end of the interval; in order, at least two.
    """
    steps, means, lows, highs = zip(*points, strict=True)

    def draw(axes: Any) -> None:
        axes.axhline(means[0], color=BASE, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.fill_between(steps, lows, highs, color=TUNED, alpha=0.16, linewidth=0)
        axes.plot(steps, means, color=TUNED, linewidth=1.8, marker="o", markersize=3.6, markeredgewidth=0)
        axes.set_xlabel("iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=LINE, linewidth=0.8)

    label = f"{name} over checkpoints: from {means[0]:.4g} to {means[-1]:.4g} at iteration {steps[-1]:g}"
    return as_svg(f"progress-{name}", label, draw)


def as_svg(identity: str, label: str, draw: Callable[[Any], None], size: tuple[float, float] = _SIZE) -> str:
    """Draw on axes in house style; the SVG is deterministic and carries `label` for screen readers.

    Args:
        identity: Unique on the page; every id in the SVG begins with it, also those that `draw` sets (gid).
        label: What is seen, in words.
        draw: Given matplotlib axes; colours are this module's.
        size: Width and height in inches, for the ratio and the size of letters.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": identity,
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": LINE,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), re.sub(r"\W+", "-", identity), label)


def _inline(svg: str, prefix: str, label: str) -> str:
    """From a standalone file to an element: page colours and fonts, ids that are unique on the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = re.search(r'viewBox="([^"]+)"', svg)
    assert head is not None, "matplotlib writes a viewBox"
    body = svg[svg.index(">") + 1 :]
    return f'<svg class="chart" viewBox="{head.group(1)}" role="img" aria-label="{escaped}">{body}'
