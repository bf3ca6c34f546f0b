"""Accuracy over the number of pictures to choose from, as a chart in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.plots import BASE, INK, LINE, MUTED, RAMP, TUNED, as_svg

#: Colour, marker and dashes of each line: no two are told apart by colour alone.
STYLES = (
    *((TUNED, "o", "-"), (RAMP[2], "s", (0, (5, 2))), (RAMP[4], "D", (0, (1, 1.5))), (BASE, "^", "-")),
    *((RAMP[1], "v", (0, (5, 2))), (RAMP[3], "P", (0, (1, 1.5))), (INK, "X", "-"), (RAMP[0], "*", "-")),
)


def choices_curve(identity: str, counts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Accuracy in percent of each model for each number of pictures, with intervals, and what guessing gives.

    Args:
        identity: Unique on the page.
        counts: Model -> number of pictures, as text -> its `Tally`; at least one.
    """
    numbers = sorted({int(choices) for found in counts.values() for choices in found})

    def draw(axes: Any) -> None:
        axes.plot(numbers, [100 / n for n in numbers], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            "guessing", (numbers[0], 100 / numbers[0]), xytext=(9, 0), textcoords="offset points",
            color=MUTED, fontsize=8.5,
        )  # fmt: skip
        reach = (numbers[-1] - numbers[0]) or 1
        for place, (name, found) in enumerate(counts.items()):
            color, marker, dashes = STYLES[place % len(STYLES)]
            shift = 0.008 * reach * (place - (len(counts) - 1) / 2)  # intervals would lie on each other
            at = [n for n in numbers if str(n) in found]
            means = [100 * found[str(n)]["accuracy"] for n in at]
            ends = [found[str(n)]["interval"] or (found[str(n)]["accuracy"],) * 2 for n in at]
            errors = [
                [mean - 100 * low for mean, (low, _) in zip(means, ends, strict=True)],
                [100 * high - mean for mean, (_, high) in zip(means, ends, strict=True)],
            ]
            axes.errorbar(
                [n + shift for n in at], means, yerr=errors, color=color, marker=marker, linestyle=dashes,
                markersize=4.5, linewidth=1.6, elinewidth=0.8, label=name,
            )  # fmt: skip
        axes.set_xticks(numbers)
        axes.set_xlabel("pictures to choose from")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 103)
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.legend(frameon=False, fontsize=8.5, loc="upper right", bbox_to_anchor=(1, 0.45), labelcolor=INK)

    said = [f"{name} {_said(found)}" for name, found in counts.items()]
    label = f"Accuracy over the number of pictures to choose from: {'; '.join(said)}"
    return as_svg(f"nafc-{identity}", label, draw, (5.2, 3.1))


def _said(found: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{100 * one['accuracy']:.0f} % of {n}" for n, one in found.items())
