"""Did it work, and was it honest: targets that were set beforehand, and alarms for reward hacking.

Pure functions of the summary. A target is held or missed by the measured mean; the interval is always printed
beside it, so that a reader sees how sure that is. A target that could not be measured is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.alarms import DEFAULT_ALARMS, HELD_OUT, REWARD, VELOCITY, Alarm, against_held_out, ring
from eval.metrics import Comparison
from eval.numbers import interval_text, percent, points

_WORDS = {HELD_OUT: "held-out metrics", VELOCITY: "velocity"}


@dataclass(frozen=True)
class Targets:
    """What the tuned model has to reach on held-out prompts.

    Attributes:
        reward_gain: Least rise of the mean weighted reward, in points.
        adherence: Held-out dimension that must not fall; it is never part of the reward.
        adherence_drop: Tolerated fall of its mean, as a share of the base mean.
        alarms: Changes to warn of.
        watched: Held-out dimensions, higher being better, that must not fall while the reward rises; none:
            all but the pixel statistics; an empty list: that alarm is off.
    """

    reward_gain: float = 0.0
    adherence: str = "adherence"
    adherence_drop: float = 0.02
    alarms: list[Alarm] = field(default_factory=lambda: list(DEFAULT_ALARMS))
    watched: list[str] | None = None


def judge(
    summary: Mapping[str, Comparison],
    trained: Sequence[str],
    targets: Targets,
    confidence: float,
    held_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Targets, alarms and the verdict line.

    Args:
        summary: Comparison of each dimension; `reward` is the weighted reward.
        trained: Dimensions with a weight in the reward.
        targets: What was asked for.
        confidence: Coverage of the intervals, for the wording.
        held_out: Dimensions without a weight that should be high, unless `targets.watched` names them.

    Returns:
        `{"line", "held", "targets": [...], "alarms": [...]}`. `held` is True only if every target was
        measured and held. A target has `name`, `statement`, `measured` and `held` (None where it was not
        measured); an alarm is as `eval.alarms.ring` returns it.
    """
    checks = [
        _gain(summary[REWARD], targets.reward_gain),
        _above_zero(summary[REWARD], confidence),
        _not_below(summary, trained),
        _adherence(summary.get(targets.adherence), targets, confidence),
    ]
    alarms = [ring(alarm, summary.get(alarm.dimension), confidence) for alarm in targets.alarms]
    watched = held_out if targets.watched is None else targets.watched
    if watched:
        alarms.append(against_held_out(summary, watched, confidence))
    held = all(check["held"] is True for check in checks)
    line = _line(checks, alarms, summary, targets.adherence, confidence)
    return {"line": line, "held": held, "targets": checks, "alarms": alarms}


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
    ringing = [
        _WORDS.get(alarm["dimension"], alarm["dimension"].replace("_", " "))
        for alarm in alarms
        if alarm["rings"]
    ]
    warning = f" Warning of reward hacking: {', '.join(ringing)}." if ringing else ""
    return f"{opening}: {' and '.join(parts)}.{warning}"
