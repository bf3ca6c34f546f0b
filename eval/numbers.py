"""Numbers as the pages print them."""

from __future__ import annotations

from collections.abc import Sequence


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
