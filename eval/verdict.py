"""Did it work, and was it honest: targets that were set beforehand, and alarms for reward hacking.

Pure functions of the summary. A target is held or missed by the measured mean; the interval is always printed
beside it, so that a reader sees how sure that is. A target that could not be measured is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from eval.metrics import Comparison

REWARD = "reward"


@dataclass(frozen=True)
class Alarm:
    """A change that looks like a reward being gamed rather than earned.

    It rings when the mean moves the wrong way by more than the bound and the interval of the difference
    leaves zero out.

    Attributes:
        dimension: Measured dimension, or `diversity`.
        direction: The way that is suspicious.
        bound: Change that is still tolerated, as a share of the base mean or, if `absolute`, in the
            dimension's unit.
        absolute: Whether `bound` is in the dimension's unit. Logarithmic dimensions need that.
        meaning: What a reader should look for in the pictures.
    """

    dimension: str
    direction: Literal["up", "down"]
    bound: float
    absolute: bool = False
    meaning: str = ""


# Natural pictures have less than 0.01 of grid energy; sharpness is the logarithm of a variance: -0.7 is half.
DEFAULT_ALARMS = (
    Alarm(
        "grid_energy",
        "up",
        0.01,
        absolute=True,
        meaning="a fine regular grid or dot pattern over the picture",
    ),
    Alarm("saturation", "up", 0.5, meaning="colours driven to their limits"),
    Alarm("sharpness", "down", 0.7, absolute=True, meaning="fine detail smoothed away"),
    Alarm("diversity", "down", 0.3, meaning="members of one prompt becoming alike"),
)


@dataclass(frozen=True)
class Targets:
    """What the tuned model has to reach on held-out prompts.

    Attributes:
        reward_gain: Least rise of the mean weighted reward, in points.
        adherence: Held-out dimension that must not fall; it is never part of the reward.
        adherence_drop: Tolerated fall of its mean, as a share of the base mean.
        alarms: Changes to warn of.
    """

    reward_gain: float = 0.0
    adherence: str = "adherence"
    adherence_drop: float = 0.02
    alarms: list[Alarm] = field(default_factory=lambda: list(DEFAULT_ALARMS))


def judge(
    summary: Mapping[str, Comparison], trained: Sequence[str], targets: Targets, confidence: float
) -> dict[str, Any]:
    """Targets, alarms and the verdict line.

    Args:
        summary: Comparison of each dimension; `reward` is the weighted reward.
        trained: Dimensions with a weight in the reward.
        targets: What was asked for.
        confidence: Coverage of the intervals, for the wording.

    Returns:
        `{"line", "held", "targets": [...], "alarms": [...]}`. `held` is True only if every target was
        measured and held. A target has `name`, `statement`, `measured` and `held` (None where it was not
        measured); an alarm has `dimension`, `text`, `meaning` and `rings` (None likewise).
    """
    checks = [
        _gain(summary[REWARD], targets.reward_gain),
        _above_zero(summary[REWARD], confidence),
        _not_below(summary, trained),
        _adherence(summary.get(targets.adherence), targets, confidence),
    ]
    alarms = [_alarm(summary.get(alarm.dimension), alarm) for alarm in targets.alarms]
    held = all(check["held"] is True for check in checks)
    line = _line(checks, alarms, summary, targets.adherence, confidence)
    return {"line": line, "held": held, "targets": checks, "alarms": alarms}


def signed(value: float, digits: int = 1) -> str:
    """`+1.2`, `−1.2` or `0.0`, with a true minus sign."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else "−") + text


def points(value: float) -> str:
    """A signed difference; a tiny one keeps the decimals that show why a target is held or missed."""
    return signed(value, 1 if value == 0 or abs(value) >= 0.05 else 4)


def percent(value: float, digits: int = 1) -> str:
    """A share as a signed percentage."""
    return signed(100.0 * value, digits) + " %"


def interval_text(interval: Sequence[float] | None, digits: int = 1) -> str:
    """`+0.3 to +1.2`, or what to say when there is none."""
    if interval is None:
        return "no interval, one prompt only"
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def _gain(reward: Comparison, least: float) -> dict[str, Any]:
    statement = f"The weighted reward rises by at least {least:g} points"
    if reward.difference is None:
        return _check("reward_gain", statement, "no pair has a reward", None)
    measured = f"{points(reward.difference)} points"
    # The least gain may be zero: a rise by nothing is no rise.
    return _check("reward_gain", statement, measured, reward.difference >= least and reward.difference > 0)


def _above_zero(reward: Comparison, confidence: float) -> dict[str, Any]:
    statement = f"The {confidence:.0%} interval of its paired difference lies above zero".replace("%", " %")
    if reward.interval is None:
        return _check("reward_interval", statement, interval_text(None), None)
    return _check("reward_interval", statement, interval_text(reward.interval), reward.interval[0] > 0)


def _not_below(summary: Mapping[str, Comparison], trained: Sequence[str]) -> dict[str, Any]:
    statement = "No trained dimension falls below base"
    differences = {name: summary[name].difference for name in trained}
    known = {name: value for name, value in differences.items() if value is not None}
    measured = ", ".join(f"{name} {points(value)}" for name, value in known.items()) or "nothing measured"
    if any(value < 0 for value in known.values()):
        return _check("trained_dimensions", statement, measured, False)
    return _check("trained_dimensions", statement, measured, True if len(known) == len(differences) else None)


def _adherence(result: Comparison | None, targets: Targets, confidence: float) -> dict[str, Any]:
    statement = f"Held-out {targets.adherence} falls by at most {100 * targets.adherence_drop:g} %"
    if result is None or result.relative is None:
        return _check("adherence", statement, "not measured", None)
    measured = percent(result.relative)
    if result.relative_interval is not None:
        low, high = (percent(value) for value in result.relative_interval)
        measured += f" ({100 * confidence:g} % interval {low} to {high})"
    return _check("adherence", statement, measured, result.relative >= -targets.adherence_drop)


def _alarm(result: Comparison | None, alarm: Alarm) -> dict[str, Any]:
    name = alarm.dimension.replace("_", " ")
    meaning = alarm.meaning or f"{name} going {alarm.direction}"
    record: dict[str, Any] = {"dimension": alarm.dimension, "meaning": meaning, "rings": None}
    change = None if result is None else (result.difference if alarm.absolute else result.relative)
    if result is None or change is None or result.difference is None:
        return {**record, "text": f"{name}: not measured"}
    sign = 1.0 if alarm.direction == "up" else -1.0
    # Without an interval (one prompt) the mean alone decides: a warning too many is the cheaper mistake.
    low, high = result.interval or (result.difference, result.difference)
    sure = low > 0 if alarm.direction == "up" else high < 0
    digits = 2 if alarm.bound >= 0.1 else 3
    moved = signed(change, digits) if alarm.absolute else percent(change)
    bound = signed(sign * alarm.bound, digits) if alarm.absolute else percent(sign * alarm.bound, 0)
    text = f"{name} changed by {moved} (warns beyond {bound})"
    return {**record, "text": text, "rings": sure and sign * change > alarm.bound}


def _check(name: str, statement: str, measured: str, held: bool | None) -> dict[str, Any]:
    return {"name": name, "statement": statement, "measured": measured, "held": held}


def _line(
    checks: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Comparison],
    held_out: str,
    confidence: float,
) -> str:
    reward, adherence = summary[REWARD], summary.get(held_out)
    if reward.difference is None:
        return "Nothing could be compared: no pair has a reward on both sides."
    missed = [check for check in checks if check["held"] is False]
    unknown = [check for check in checks if check["held"] is None]
    if missed:
        opening = f"{len(missed)} of {len(checks)} targets missed"
    elif unknown:
        opening = f"{len(checks) - len(unknown)} of {len(checks)} targets held, the rest not measured"
    else:
        opening = f"All {len(checks)} targets held"
    verb = "rose" if reward.difference > 0 else "fell" if reward.difference < 0 else "moved"
    parts = [f"the weighted reward {verb} by {points(abs(reward.difference)).lstrip('+')} points"]
    if reward.interval is not None:
        parts[0] += f" ({100 * confidence:g} % interval {interval_text(reward.interval)})"
    if adherence is not None and adherence.relative is not None:
        parts.append(f"held-out {held_out} changed by {percent(adherence.relative)}")
    ringing = [str(alarm["dimension"]) for alarm in alarms if alarm["rings"]]
    warning = f" Warning of reward hacking: {', '.join(ringing)}." if ringing else ""
    return f"{opening}: {' and '.join(parts)}.{warning}"
