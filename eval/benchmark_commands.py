"""The subcommands `rating` and `vqa` of `python -m eval`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "rating": "Compare scores with people's ratings: correlations on any number of data sets.",
}


def add_benchmarks(commands: Any) -> None:
    """Add the subcommands: every key of a config is an option, unknown ones are errors."""
    from eval.rating_config import RatingConfig
    from flow_grpo.parser import Parser

    for name, config in (("rating", RatingConfig),):
        command = Parser(exit_on_error=False, description=BENCHMARKS[name])
        command.add_argument(
            "--config", action="config", help="YAML file; options on the command line come on top."
        )
        command.add_class_arguments(config)
        commands.add_subcommand(name, command, help=BENCHMARKS[name])


def benchmark_command(name: str, settings: Any) -> Callable[[], int]:
    """What the command line asks for, ready to be run; it returns the exit code."""
    from eval.rating_config import RatingConfig

    config = RatingConfig(**{field.name: settings[field.name] for field in fields(RatingConfig)})
    return partial(_rating, config)


def _rating(config: Any) -> int:
    from eval.rating import run

    code = run(config)
    out = Path(config.out)
    if (out / "table.md").is_file() and code != 130:
        print((out / "table.md").read_text(encoding="utf-8"))
        print(f"page     {out / 'rating.html'}\nrecord   {out / 'results.json'}")
    return code
