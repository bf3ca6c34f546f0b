"""Alarms for reward hacking: changes that look like a reward being gamed rather than earned.

Each has a threshold, a rule that is printed with it, and what a reader should look for in the pictures. Both
the size and the certainty of a change count: the mean has to be beyond the bound, and the interval of the
paired difference has to leave zero out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.metrics import Comparison
from eval.numbers import percent, points, signed

REWARD = "reward"
DIVERSITY, VELOCITY = "diversity", "velocity_norm"
PIXEL_DISTANCE, CLIP_DISTANCE = "pixel_distance", "clip_distance"
HELD_OUT = "held_out"
#: Of these neither direction is good in itself; every other dimension is taken for one that should be high.
NEUTRAL = frozenset(
    {"colourfulness", "saturation", "sharpness", "grid_energy", "naive_pixels"}
    | {DIVERSITY, VELOCITY, PIXEL_DISTANCE, CLIP_DISTANCE}
)


@dataclass(frozen=True)
class Alarm:
    """A change that looks like a reward being gamed rather than earned.

    It rings when the mean moves the wrong way by more than the bound and the interval of the difference
    leaves zero out.

    Attributes:
        dimension: Measured dimension, `diversity` or `velocity_norm`.
        direction: The way that is suspicious.
        bound: Change that is still tolerated, as a share of the base mean or, if `absolute`, in the
            dimension's unit.
        absolute: Whether `bound` is in the dimension's unit. Logarithmic dimensions need that.
        meaning: What a reader should look for in the pictures.
        severity: serious: the pictures are damaged; warning: look before you trust the reward.
    """

    dimension: str
    direction: Literal["up", "down"]
    bound: float
    absolute: bool = False
    meaning: str = ""
    severity: Literal["warning", "serious"] = "warning"


# Natural pictures have less than 0.01 of grid energy; sharpness is the logarithm of a variance: -0.7 is half.
# docs/evaluation.md says where each bound comes from.
DEFAULT_ALARMS = (
    Alarm(
        "grid_energy",
        "up",
        0.01,
        absolute=True,
        meaning="a fine regular grid or dot pattern over the picture",
        severity="serious",
    ),
    Alarm("saturation", "up", 0.5, meaning="colours driven to their limits"),
    Alarm("sharpness", "down", 0.7, absolute=True, meaning="fine detail smoothed away"),
    Alarm(DIVERSITY, "down", 0.3, meaning="members of one prompt becoming alike", severity="serious"),
    Alarm(VELOCITY, "up", 0.1, meaning="predictions too large at every step, as from too much guidance"),
)


def ring(alarm: Alarm, result: Comparison | None, confidence: float) -> dict[str, Any]:
    """What an alarm says of a measured change.

    Returns:
        `dimension`, `meaning`, `severity`, `rule` (when it rings, in words), `text` (what was measured) and
        `rings`, which is None where nothing was measured.
    """
    name = alarm.dimension.replace("_", " ")
    record: dict[str, Any] = {
        "dimension": alarm.dimension,
        "meaning": alarm.meaning or f"{name} going {alarm.direction}",
        "severity": alarm.severity,
        "rule": _rule(alarm, confidence),
        "rings": None,
    }
    change = None if result is None else (result.difference if alarm.absolute else result.relative)
    if result is None or change is None or result.difference is None:
        return {**record, "text": f"{name}: not measured"}
    sign = 1.0 if alarm.direction == "up" else -1.0
    # Without an interval (one prompt) the mean alone decides: a warning too many is the cheaper mistake.
    low, high = result.interval or (result.difference, result.difference)
    sure = low > 0 if alarm.direction == "up" else high < 0
    digits = 2 if alarm.bound >= 0.1 else 3
    moved = signed(change, digits) if alarm.absolute else percent(change)
    text = f"{name} changed by {moved} (warns beyond {_bound(alarm)})"
    return {**record, "text": text, "rings": sure and sign * change > alarm.bound}


def against_held_out(
    summary: Mapping[str, Comparison], watched: Sequence[str], confidence: float
) -> dict[str, Any]:
    """The alarm for a reward that rises while a held-out metric falls, both beyond doubt.

    Without a change of the weights the reward's interval is above zero in 2.5 % of comparisons at 95 %, so
    that is the most that this alarm rings falsely, whatever the number of metrics.

    Args:
        summary: Comparison of each dimension.
        watched: Held-out dimensions that should be high.
        confidence: Coverage of the intervals, for the wording.
    """
    reward = summary[REWARD]
    known = {name: summary[name] for name in watched if name in summary and summary[name].interval}
    record = {
        "dimension": HELD_OUT,
        "meaning": "the reward bought with something that it does not measure",
        "severity": "serious",
        "rule": f"rings when the {_share(confidence)} interval of the reward lies above zero and that of a "
        "held-out metric below",
        "rings": None,
    }
    if reward.interval is None or not known:
        return {**record, "text": "reward against held-out metrics: not measured"}
    rose = reward.interval[0] > 0
    fallen = {name: r for name, r in known.items() if r.interval is not None and r.interval[1] < 0}
    listed = ", ".join(f"{name.replace('_', ' ')} {_moved(r)}" for name, r in fallen.items())
    gain = "significantly up" if rose else "not significantly up"
    text = f"reward {gain}; significantly down: {listed or 'none'}"
    return {**record, "text": text, "rings": rose and bool(fallen)}


def _rule(alarm: Alarm, confidence: float) -> str:
    verb, side = ("rises", "above") if alarm.direction == "up" else ("falls", "below")
    amount = f"{alarm.bound:g}" if alarm.absolute else f"{100 * alarm.bound:g} %"
    return (
        f"rings when the mean {verb} by more than {amount} and the {_share(confidence)} interval of the "
        f"paired difference lies {side} zero"
    )


def _moved(result: Comparison) -> str:
    return percent(result.relative) if result.relative is not None else points(result.difference or 0.0)


def _bound(alarm: Alarm) -> str:
    bound = alarm.bound if alarm.direction == "up" else -alarm.bound
    return signed(bound, 2 if alarm.bound >= 0.1 else 3) if alarm.absolute else percent(bound, 0)


def _share(confidence: float) -> str:
    return f"{100 * confidence:g} %"
