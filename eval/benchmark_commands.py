"""The subcommands `rating`, `vqa` and `unisim` of `python -m eval`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "rating": "Compare scores with people's ratings: correlations on any number of data sets.",
    "vqa": "Ask multiple-choice questions about pictures: accuracy by domain, category and criterion.",
    "unisim": "Compare metrics and reward models on UniSim-Bench: do they choose as people do?",
}
INTERRUPTED = 130


def add_benchmarks(commands: Any) -> None:
    """Add the subcommands: every key of a config is an option, unknown ones are errors."""
    from flow_grpo.parser import Parser

    for name, about in BENCHMARKS.items():
        command = Parser(exit_on_error=False, description=about)
        command.add_argument(
            "--config", action="config", help="YAML file; options on the command line come on top."
        )
        command.add_class_arguments(_config_of(name))
        commands.add_subcommand(name, command, help=about)


def benchmark_command(name: str, settings: Any) -> Callable[[], int]:
    """What the command line asks for, ready to be run; it returns the exit code."""
    config = _config_of(name)
    return partial(_run, name, config(**{field.name: settings[field.name] for field in fields(config)}))


def _config_of(name: str) -> type[Any]:
    from eval.rating_config import RatingConfig
    from eval.unisim.config import UnisimConfig
    from eval.vqa_config import VqaBenchmarkConfig

    configs: dict[str, type[Any]] = {
        "rating": RatingConfig,
        "vqa": VqaBenchmarkConfig,
        "unisim": UnisimConfig,
    }
    return configs[name]


def _run(name: str, config: Any) -> int:
    from eval import rating, vqa
    from eval.unisim import run as unisim

    _quieten()
    runs: dict[str, Callable[[Any], int]] = {"rating": rating.run, "vqa": vqa.run, "unisim": unisim.run}
    code = runs[name](config)
    if code != INTERRUPTED:
        out = Path(config.out)
        print((out / "table.md").read_text(encoding="utf-8"))
        print(f"page     {out / f'{name}.html'}\nrecord   {out / 'results.json'}")
    return code


def _quieten() -> None:
    """Libraries' advice and their progress bars would bury the one progress bar that matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.captureWarnings(True)
