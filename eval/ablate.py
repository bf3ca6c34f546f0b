"""`python -m eval ablate --config FILE [--list] [--dry_run] [--only PATTERNS] [--parallel N | --ray ADDRESS]`

It can be stopped at any time and goes on where it was; page and tables are written anew after every run.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from eval import ablate_table
from eval.ablate_config import AblateConfig, Run, chosen, expand
from eval.ablate_ray import RayWorkshop
from eval.ablate_runs import Busy, RunFailed, Workshop, commands, state_of
from eval.ablate_server import reward_server


def run(
    config: AblateConfig,
    only: Sequence[str] = (),
    parallel: int = 1,
    dry_run: bool = False,
    list_runs: bool = False,
    ray: str | None = None,
) -> None:
    """Carry out what is not finished yet of a matrix of runs, and write its page and tables.

    Args:
        config: The matrix.
        only: Patterns of run names, such as */kl_* or naive/*/seed0; empty: all. The tables have all.
        parallel: Runs at a time on this machine.
        dry_run: Print what would be executed and how long it would take, and stop.
        list_runs: Print every run's name and how far it is, and stop.
        ray: Address of a Ray cluster whose nodes carry out the runs, as many at a time as have room; then
            `parallel` is not used.

    Raises:
        ValueError: The matrix, or one of its combinations, is not valid; nothing was started.
        RunFailed: Some runs failed, the others are finished; or the reward server did.
    """
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}; it must be at least 1")
    runs = expand(config)
    selected = chosen(runs, only)
    states = {item.name: state_of(item) for item in runs}  # refuses folders of another configuration
    if list_runs:
        for item in selected:
            print(f"{states[item.name].stage or 'open':8} {item.name}")
        return
    todo = [item for item in selected if not states[item.name].done]
    if dry_run:
        describe(config, todo, len(selected), parallel, seconds_of(config, runs))
        return
    failures: dict[str, str] = {}
    print(plan(config, todo, len(selected), parallel, seconds_of(config, runs)), flush=True)
    if todo:
        failures = execute(config, runs, todo, parallel, ray)
    out = Path(config.out)
    ablate_table.write(ablate_table.collect(config, runs, failures), out)
    print(f"page     {out / 'index.html'}")
    print(f"tables   {out / 'table.md'}, {out / 'runs.csv'}, {out / 'results.json'}")
    if failures:
        listed = "\n".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RunFailed(f"{len(failures)} of {len(todo)} runs failed, run it again to go on:\n{listed}")


def execute(
    config: AblateConfig, runs: Sequence[Run], todo: Sequence[Run], parallel: int, ray: str | None
) -> dict[str, str]:
    """Carry out `todo`; returns name -> reason of those that failed."""
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminated_as_interrupted())
        working: Workshop | RayWorkshop
        if ray is not None:
            working = RayWorkshop(config, ray)
        else:
            working = Workshop(config, parallel, stack.enter_context(reward_server(config)))
        for number, (item, error) in enumerate(working.work(todo), start=1):
            if isinstance(error, Busy):
                print(f"[{number}/{len(todo)}] {item.name}: left alone, {error}", flush=True)
                continue
            if error is not None:
                failures[item.name] = str(error)
                print(f"[{number}/{len(todo)}] {item.name}: FAILED, {error}", file=sys.stderr, flush=True)
            else:
                spent = sum(state_of(item).seconds.values())
                print(f"[{number}/{len(todo)}] {item.name}: done in {spent:.0f} s", flush=True)
            ablate_table.write(ablate_table.collect(config, runs, failures), Path(config.out))
    return failures


def seconds_of(config: AblateConfig, runs: Sequence[Run]) -> tuple[float, str]:
    """Mean time of a run, and where the figure comes from."""
    spent = [sum(state.seconds.values()) for state in map(state_of, runs) if state.done]
    if spent:
        return sum(spent) / len(spent), f"mean of {len(spent)} that are done"
    return config.seconds_per_run, "seconds_per_run"


def plan(
    config: AblateConfig, todo: Sequence[Run], selected: int, parallel: int, seconds: tuple[float, str]
) -> str:
    """One line: how many runs, and how long they take."""
    each, source = seconds
    rounds = -(-len(todo) // parallel)
    return (
        f"{config.title}: {len(todo)} of {selected} runs to do, {parallel} at a time, "
        f"about {each:.0f} s each ({source}): {rounds * each / 60:.0f} minutes"
    )


def describe(
    config: AblateConfig, todo: Sequence[Run], selected: int, parallel: int, seconds: tuple[float, str]
) -> None:
    """Print the plan and every command."""
    print(plan(config, todo, selected, parallel, seconds))
    for item in todo:
        print(f"\n{item.name}: {overrides(config, item) or 'as the base'}")
        for command in commands(item, config).values():
            print(f"  python {shlex.join(command)}")


def overrides(config: AblateConfig, item: Run) -> str:
    """What sets a run apart from the base."""
    settings: dict[str, object] = {}
    for axis, variant in item.variants.items():
        settings |= config.axes[axis][variant]
    return ", ".join(f"{key}={value}" for key, value in settings.items())


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, so that no command is left running behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
