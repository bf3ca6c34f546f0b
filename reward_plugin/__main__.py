"""`python -m reward_plugin serve | score | chat | vqa | analyse | profile`.

Exit codes: 0 done; 1 it could not be done; 2 the command line is wrong; 3 done, but some pictures have no
complete score or no answer; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser

from reward_plugin.errors import RewardError
from reward_plugin.language.command import COMMANDS
from reward_plugin.language.command import run as run_language
from reward_plugin.score.config import ScoreConfig
from reward_plugin.serve import ServeConfig, serve

SCORE_HELP = """Score pictures: a table on a terminal, JSON lines into a pipe, a file with --out.
Exit codes: 0 every picture has all its scores; 3 some have not; 1 the run could not start or go on;
2 the command line is wrong; 130 interrupted."""
IMAGES_HELP = """picture files, folders, patterns such as 'photos/**/*.jpg', .jsonl lists of
{"image": PATH, "prompt": TEXT, ...}, or .txt lists of paths"""
# What a command takes besides.
MORE_IMAGES_HELP = {
    "vqa": """; or .json files of a benchmark, each a list of {"image": PATH, "question": TEXT,
"answer": LETTER, ...}"""
}
CONFIG_HELP = "YAML file with any of the options below"
# Options that need no value on the command line.
FLAGS = {
    "recursive": "look into the folders inside folders, too",
    "retry": "do again what failed before, in a run that goes on",
}


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m reward_plugin", exit_on_error=False, description="Perceptual rewards for images."
    )
    commands = parser.add_subcommands(required=True)

    serving = ArgumentParser(exit_on_error=False, description="Run a reward server; see configs/reward/.")
    serving.add_argument("--config", action="config", help=CONFIG_HELP)
    serving.add_class_arguments(ServeConfig)
    commands.add_subcommand("serve", serving, help="answer score requests over HTTP")

    scoring = ArgumentParser(exit_on_error=False, description=SCORE_HELP)
    _take_pictures(scoring, ScoreConfig)
    commands.add_subcommand("score", scoring, help="score pictures: files, folders, lists")

    for name, command in COMMANDS.items():
        summary = (command.config.__doc__ or "").partition("\n")[0]
        asking = ArgumentParser(exit_on_error=False, description=summary)
        _take_pictures(asking, command.config, MORE_IMAGES_HELP.get(name, ""))
        commands.add_subcommand(name, asking, help=command.help)
    return parser


def _take_pictures(parser: ArgumentParser, config: type, more: str = "") -> None:
    """Add pictures and the options of a config class."""
    parser.add_argument("images", nargs="+", type=str, help=IMAGES_HELP + more)
    parser.add_argument("--config", action="config", help=CONFIG_HELP)
    parser.add_class_arguments(config, skip=set(FLAGS))
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input is one line on standard error and an exit code other than 0."""
    parser = build_parser()
    try:
        options = parser.parse_args(argv)
        chosen = options[options.subcommand]
        if options.subcommand == "score":
            from reward_plugin.score.command import run

            return run(
                chosen.images,
                ScoreConfig(**{name: chosen[name] for name in ScoreConfig.__dataclass_fields__}),
            )
        if options.subcommand in COMMANDS:
            return run_language(options.subcommand, chosen)
        serve(ServeConfig(**{name: chosen[name] for name in ServeConfig.__dataclass_fields__}))
        return 0
    except ArgumentError as error:
        print(f"reward_plugin: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RewardError as error:
        print(f"reward_plugin: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
