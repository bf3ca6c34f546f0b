"""`python -m eval compare --config FILE [--any.key VALUE]`, `ablate`, benchmarks and `report FOLDER`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.config import CompareConfig

FAILED, MISUSED = 1, 2
#: So many problems are named on the terminal; the report has all.
_NAMED = 5


def build_parser() -> Any:
    """The command line: every key of the config is an option, unknown ones are errors."""
    from jsonargparse import ArgumentParser

    from eval.ablate_config import AblateConfig
    from eval.benchmark_commands import add_benchmarks
    from eval.config import CompareConfig
    from flow_grpo.parser import Parser

    parser = ArgumentParser(
        prog="python -m eval",
        description="Compare a base model with its tuned LoRA on held-out prompts.",
        exit_on_error=False,
    )
    compare = Parser(exit_on_error=False)
    compare.add_argument(
        "--config", action="config", help="YAML file; options on the command line come on top."
    )
    compare.add_class_arguments(CompareConfig)
    ablate = Parser(exit_on_error=False)
    ablate.add_argument(
        "--config", action="config", help="YAML file; options on the command line come on top."
    )
    ablate.add_argument("--list", action="store_true", help="Print the runs and how far each is, and stop.")
    ablate.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="Print commands and time, and stop."
    )
    ablate.add_argument("--only", nargs="*", default=[], help="Patterns of the names of runs to do.")
    ablate.add_argument("--parallel", type=int, default=1, help="Runs at a time on this machine.")
    ablate.add_argument(
        "--ray",
        default=None,
        metavar="ADDRESS",
        help="Ray cluster that carries out the runs: auto, or host:port.",
    )
    ablate.add_class_arguments(AblateConfig)
    watch = Parser(exit_on_error=False)
    watch.add_argument("--run_dir", type=str, required=True, help="Folder of the training run.")
    watch.add_argument("--every", type=float, default=5.0, help="Seconds between looks.")
    watch.add_argument("--once", action="store_true", help="Write the page once and stop.")
    watch.add_argument("--compare", type=str, help="Configuration of `compare`, run at each new checkpoint.")
    report = ArgumentParser(exit_on_error=False)
    report.add_argument("folder", type=str, help="Folder with the results.json that compare wrote.")
    commands = parser.add_subcommands(dest="command", required=True)
    commands.add_subcommand(
        "compare", compare, help="Generate, score, and write results, report and gallery."
    )
    commands.add_subcommand("ablate", ablate, help="Train and compare every run of a matrix of settings.")
    commands.add_subcommand("watch", watch, help="Write a run's report at each of its validations.")
    commands.add_subcommand("report", report, help="Draw report and gallery again from results.json.")
    add_benchmarks(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (it failed), 2 (it was called wrongly) or 130 (interrupted); a
    benchmark's is 3 when it is done and something is missing, and its report says what.
    """
    from argparse import ArgumentError

    from eval.results import NothingScored
    from reward_plugin.errors import RewardError

    try:
        command = _parse(arguments)
    except (ArgumentError, ValueError) as error:
        return _complain(error, MISUSED)
    try:
        code = command()
    except (ValueError, RewardError, NothingScored, OSError) as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        print("\neval: interrupted; what was made and scored is kept, run it again to go on", file=sys.stderr)
        return 130
    return code or 0


def _parse(arguments: Sequence[str] | None) -> Callable[[], int | None]:
    """What the command line asks for, ready to be run."""
    from eval.benchmark_commands import BENCHMARKS, benchmark_command

    parser = build_parser()
    parsed = parser.parse_args(arguments)
    settings = parser.instantiate(parsed)[parsed.command]
    if parsed.command == "report":
        return partial(_report, Path(settings["folder"]))
    if parsed.command == "watch":
        return _watching(settings)
    if parsed.command == "ablate":
        return _ablation(settings)
    if parsed.command in BENCHMARKS:
        return benchmark_command(parsed.command, settings)
    return partial(_compare, _comparison(settings))


def _comparison(settings: Any) -> CompareConfig:
    from eval.config import CompareConfig

    return CompareConfig(**{name: settings[name] for name in CompareConfig.__dataclass_fields__})


def _watching(settings: Any) -> Callable[[], None]:
    from eval.watch import watch

    config = None
    if settings["compare"] is not None:
        parser = build_parser()
        given = ["compare", "--config", settings["compare"], "--run_dir", settings["run_dir"]]
        config = _comparison(parser.instantiate(parser.parse_args(given)).compare)
    return partial(watch, Path(settings["run_dir"]), config, settings["every"], settings["once"])


def _compare(config: CompareConfig) -> None:
    _quieten()
    from eval.compare import run

    results = run(config)
    if not results:  # another process has them
        return
    from eval.published import as_text
    from eval.results import headline

    print(f"\n{headline(results)['verdict']['line']}")
    if results["published"]:
        print(f"\n{as_text(results)}\n")
    for problem in results["problems"][:_NAMED]:
        print(f"left out {problem['where']}: {problem['reason']}")
    if len(results["problems"]) > _NAMED:
        print(f"left out {len(results['problems']) - _NAMED} more, see the report")
    for note in results["notes"]:
        print(f"note     {note}")
    _point(Path(config.out))


def _ablation(settings: Any) -> Callable[[], None]:
    from eval.ablate import run
    from eval.ablate_config import AblateConfig

    config = AblateConfig(**{name: settings[name] for name in AblateConfig.__dataclass_fields__})
    options = {name: settings[name] for name in ("only", "parallel", "dry_run", "ray")}
    return partial(run, config, list_runs=settings["list"], **options)


def _report(folder: Path) -> None:
    from eval.compare import write_pages
    from eval.results import read

    write_pages(read(folder / "results.json"), folder)
    _point(folder)


def _point(folder: Path) -> None:
    print(f"report   {folder / 'report.html'}\ngallery  {folder / 'gallery' / 'index.html'}")


def _complain(error: BaseException, code: int) -> int:
    """One line, whatever line breaks the message has."""
    message = " ".join(str(error).split()) or type(error).__name__
    if os.environ.get("LOCAL_RANK", "0") == "0" or code == FAILED:
        print(f"eval: {message}", file=sys.stderr)
    return code


def _quieten() -> None:
    """Libraries' advice and their progress bars would bury the one progress bar that matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.captureWarnings(True)


if __name__ == "__main__":
    sys.exit(main())
