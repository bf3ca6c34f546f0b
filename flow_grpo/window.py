"""Which denoising steps are stochastic, and therefore trained.

A window is drawn once per iteration from the run's seed alone, so every rank, prompt and member of a group
has its noise on the same steps: comparing members that were perturbed at different times is noise in the
advantage. The last step is always deterministic: noise put in there stays in the picture.

progressive is MixGRPO's schedule (Li et al. 2025, arXiv 2507.21802): the window begins at the noisiest
step, stays `interval` iterations, and moves on by `stride`. Two departures from the published code: there the
window shrinks at the end of its range and is empty for `interval` iterations before it rolls back, here it
stops while it is whole; and there steps T - 2 and T - 1 are never trained, here only T - 1 is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from flow_grpo.noise import seed_of


@dataclass(frozen=True)
class WindowConfig:
    """Which steps carry noise and are trained.

    Attributes:
        kind: all: every step but the last. fixed: `size` steps from `start`. random: `size` steps whose start
            is drawn each iteration from start ... stop - size (Flow-GRPO-Fast). progressive: `size` steps
            that move from `start` to `stop` during training (MixGRPO).
        size: Number of stochastic steps for fixed, random and progressive.
        start: First step that may be stochastic (0 is the noisiest).
        stop: One past the last step that may be stochastic; none: for random half of the steps, as published,
            but at least start + size; for progressive all steps but the last.
        interval: Iterations that a progressive window stays at a place (published: 25).
        stride: Steps by which it then moves on (published: 1); the last move may be shorter.
        roll_back: After the last place begin again at the first; false: stay there.
        decay: k of the published exponential decay: at a place that begins d > 0 steps after decay_after
            the window stays ceil(interval exp(-k d)) iterations, so that more of them go to noisy steps
            (published k: 0.1). 0: `interval` everywhere.
        decay_after: Start of a window from which on it stays for less (published: 13 of 25 steps).
    """

    kind: Literal["all", "fixed", "random", "progressive"] = "all"
    size: int = 3
    start: int = 0
    stop: int | None = None
    interval: int = 25
    stride: int = 1
    roll_back: bool = True
    decay: float = 0.0
    decay_after: int = 0


def window_bounds(config: WindowConfig, num_steps: int) -> tuple[int, int]:
    """The range [start, stop) of steps from which a window may be drawn.

    Raises:
        ValueError: The window would be empty or reach the last, deterministic step.
    """
    last = num_steps - 1
    if config.kind == "all":
        start, stop, size = 0, last, last
    else:
        start, size = config.start, config.size
        default = last if config.kind == "progressive" else max(num_steps // 2, start + size)
        stop = config.stop if config.stop is not None else default
        stop = start + size if config.kind == "fixed" else stop
    if size < 1 or start < 0 or stop - start < size or stop > last:
        raise ValueError(
            f"sampler.window.kind is {config.kind!r}, sampler.window.size {size}, and steps {start} "
            f"to {stop} (exclusive) of sampler.num_steps = {num_steps}: it must hold at least one step, "
            f"fit its range, and leave out the last step, which is deterministic. Lower size or start, or "
            f"raise num_steps."
        )
    return start, stop


def possible_windows(config: WindowConfig, num_steps: int) -> list[range]:
    """Every window that `draw_window` may give; a progressive one's in their order.

    Raises:
        ValueError: One would be empty, or a key of the schedule is out of its range.
    """
    start, stop = window_bounds(config, num_steps)
    for key in ("interval", "stride"):
        if getattr(config, key) < 1:
            raise ValueError(
                f"sampler.window.{key} is {getattr(config, key)}: it must be at least 1; raise it."
            )
    for key in ("decay", "decay_after"):
        if not 0 <= getattr(config, key) < math.inf:
            raise ValueError(
                f"sampler.window.{key} is {getattr(config, key)}: it must be a number that is not negative; "
                f"0 is no decay."
            )
    if config.kind in ("all", "fixed"):
        return [range(start, stop)]
    final = stop - config.size
    stride = config.stride if config.kind == "progressive" else 1
    places = [*range(start, final, stride), final]
    return [range(place, place + config.size) for place in places]


def draw_window(config: WindowConfig, num_steps: int, seed: int, iteration: int) -> range:
    """The steps that are stochastic in this iteration, the same on every rank."""
    windows = possible_windows(config, num_steps)
    if config.kind == "random":
        return windows[seed_of(seed, "window", iteration) % len(windows)]
    if config.kind == "progressive":
        return _progressive(config, windows, iteration)
    return windows[0]


def _progressive(config: WindowConfig, windows: list[range], iteration: int) -> range:
    stays = [
        math.ceil(config.interval * math.exp(-config.decay * max(0, window.start - config.decay_after)))
        for window in windows
    ]
    if config.roll_back:
        iteration %= sum(stays)
    for window, stay in zip(windows, stays, strict=True):
        if iteration < stay:
            return window
        iteration -= stay
    return windows[-1]
