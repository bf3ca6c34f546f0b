"""`python -m eval watch --run_dir RUN`: a page about a run under way, written at each of its validations.

The trainer knows nothing of it: the page is drawn from what the run writes anyway, `eval.jsonl`,
`metrics.jsonl` and its sheets of samples. With a comparison's configuration each new checkpoint is compared,
too, from the same noise as the others, and stays in the comparison when the run has removed it.

A run's validation has means only, so the alarms on this page go by size alone, without an interval.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from eval.alarms import DEFAULT_ALARMS, NEUTRAL, REWARD, Alarm, ring
from eval.config import CompareConfig
from eval.curves import kept_iteration, read_jsonl
from eval.metrics import Comparison
from eval.numbers import percent, signed
from eval.pages import label, templates
from eval.report import draw_curves
from eval.verdict import Targets
from flow_grpo.checkpoint import NAME
from flow_grpo.files import replacing

PAGE = "report.html"
#: Seconds after which an open page reads itself again.
_REFRESH = 20


@dataclass(frozen=True)
class State:
    """What a run has written so far; equal states need no new page.

    Attributes:
        iterations: That it is to have; none where it has no configuration yet.
        done: Completed iterations.
        validations: Number of validations.
        validated: Iteration of the last one; none before the first.
        checkpoints: Their names.
    """

    iterations: int | None
    done: int
    validations: int
    validated: int | None
    checkpoints: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the last iteration is done, and validated where the run validates at all.

        A run that stops early by its own rule does not say so; end the watch by hand then.
        """
        if self.iterations is None or self.done < self.iterations:
            return False
        return self.validated is None or self.validated >= self.iterations


def watch(run_dir: Path, config: CompareConfig | None = None, every: float = 5.0, once: bool = False) -> None:
    """Write the page whenever there is something new, until the run is finished.

    Args:
        run_dir: The run's folder; it may be empty yet.
        config: A comparison to make with each new checkpoint; its run_dir and steps are set here.
        every: Seconds between looks.
        once: Look once and stop.

    Raises:
        ValueError: `run_dir` is no folder, or a file in it is damaged.
    """
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir} is no folder; give the run_dir of a training run")
    if config is not None:
        config = replace(config, run_dir=str(run_dir), steps="all", lora=None, models=[])
    seen: State | None = None
    while True:
        state = read_state(run_dir)
        if seen is None or (state.validations, state.finished) != (seen.validations, seen.finished):
            write_page(run_dir, state, Path(config.out) if config else None)
            print(f"iteration {state.done}, {state.validations} validations: {run_dir / PAGE}", flush=True)
        if (
            config is not None
            and state.checkpoints
            and (seen is None or state.checkpoints != seen.checkpoints)
        ):
            _compare(config)
            write_page(run_dir, state, Path(config.out))
        seen = state
        if once or state.finished:
            return
        time.sleep(every)


def read_state(run_dir: Path) -> State:
    """How far a run is."""
    metrics, validations = (read_jsonl(run_dir / name) for name in ("metrics.jsonl", "eval.jsonl"))
    checkpoints = sorted(
        path.name
        for path in (run_dir / "checkpoints").glob("step-*")
        if NAME.fullmatch(path.name) and (path / "state.json").is_file()
    )
    iterations = _config(run_dir).get("iterations")
    done = int(metrics[-1]["step"]) if metrics else 0
    validated = int(validations[-1]["step"]) if validations else None
    return State(iterations, done, len(validations), validated, tuple(checkpoints))


def write_page(run_dir: Path, state: State, comparison: Path | None = None) -> Path:
    """Draw `report.html` in the run's folder.

    Args:
        run_dir: The run's folder.
        state: How far it is.
        comparison: Folder of a comparison to link to, once it has a page.
    """
    config = _config(run_dir)
    weights = {k: v for k, v in (config.get("reward") or {}).get("weights", {}).items() if v}
    rows = [row for row in read_jsonl(run_dir / "eval.jsonl") if REWARD in row]
    names = [name for name in (rows[0] if rows else {}) if name not in ("step", "best_step")]
    shown = sorted(names, key=lambda name: (name != REWARD, name not in weights, name != "adherence"))
    sheets = sorted((run_dir / "samples").glob("step-*.png"))
    report = comparison / "report.html" if comparison else None
    page = (
        templates()
        .get_template("watch.html.j2")
        .render(
            title=run_dir.name if run_dir.name != "train" else f"{run_dir.parent.name}/{run_dir.name}",
            state=state,
            refresh=None if state.finished else _REFRESH,
            written=time.strftime("%H:%M:%S"),
            columns=[label(name) for name in shown],
            rows=_table(rows, shown),
            kept=kept_iteration(run_dir),
            alarms=[*_alarms(rows), *_against_held_out(rows, weights)],
            weights=", ".join(f"{label(name)} {weight:g}" for name, weight in weights.items()),
            curves=draw_curves(run_dir, shown),
            sheets=[sheet.relative_to(run_dir).as_posix() for sheet in sheets[-4:]],
            report=report.resolve().as_uri() if report is not None and report.is_file() else None,
        )
    )
    with replacing(run_dir / PAGE) as beside:
        beside.write_text(page, encoding="utf-8")
    return run_dir / PAGE


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each validation's means, and how far they are from those of the first."""
    return [
        {
            "step": row["step"],
            "cells": [_cell(row.get(name), rows[0].get(name), row is rows[0]) for name in names],
        }
        for row in rows
    ]


def _cell(value: float | None, before: float | None, first: bool) -> dict[str, str]:
    if value is None or value != value:
        return {"mean": "–", "delta": ""}
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 4
    known = before is not None and before == before and not first
    return {
        "mean": f"{value:.{digits}f}",
        "delta": f"{value - before:+.{digits}f}" if known and before else "",
    }


def _alarms(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The alarms on means alone: the latest validation against the first."""
    found = []
    for alarm in DEFAULT_ALARMS:
        pair = [row.get(alarm.dimension) for row in (rows[0], rows[-1])] if len(rows) > 1 else []
        if len(pair) == 2 and all(isinstance(value, int | float) and value == value for value in pair):
            found.append(_ring(alarm, *map(float, pair)))  # type: ignore[arg-type]
    return found


def _against_held_out(
    rows: Sequence[Mapping[str, Any]], weights: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The alarm for a reward that rises while a held-out metric falls, by a share instead of an interval."""
    drop = Targets().adherence_drop
    changes = {}
    for name, before in rows[0].items() if len(rows) > 1 else ():
        now = rows[-1].get(name)
        held_out = name not in weights and name not in NEUTRAL and name not in ("step", "best_step", REWARD)
        if held_out and now is not None and now == now and before == before and before:
            changes[name] = (now - before) / abs(before)
    if not changes:
        return []
    gain = rows[-1][REWARD] - rows[0][REWARD]
    fallen = [f"{label(name)} {percent(change)}" for name, change in changes.items() if change < -drop]
    listed = ", ".join(fallen) or "none"
    return [
        {
            "meaning": "the reward bought with something that it does not measure",
            "severity": "serious",
            "text": f"reward {signed(gain)}; fallen by more than {100 * drop:g} %: {listed}",
            "rings": gain > 0 and bool(fallen),
        }
    ]


def _ring(alarm: Alarm, before: float, now: float) -> dict[str, Any]:
    relative = (now - before) / abs(before) if before else None
    means = Comparison(1, 0, before, now, now - before, None, relative, None, None, 0, 0, 0)
    return ring(alarm, means, 0.95)


def _compare(config: CompareConfig) -> None:
    """Compare what there is; what goes wrong is said, and tried again with the next checkpoint."""
    from eval.compare import run
    from eval.results import NothingScored, headline
    from reward_plugin.errors import RewardError

    try:
        print(headline(run(config))["verdict"]["line"], flush=True)
    except (ValueError, RewardError, NothingScored, OSError) as error:
        print(f"eval: not compared: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def _config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "config.yaml"
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return config if isinstance(config, dict) else {}
