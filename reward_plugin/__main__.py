"""`python -m reward_plugin serve` and `python -m reward_plugin score`.

Exit codes: 0 done; 1 it could not be done; 2 the command line is wrong; 3 scored, but some pictures have no
complete score; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser

from reward_plugin.errors import RewardError
from reward_plugin.score.config import ScoreConfig
from reward_plugin.serve import ServeConfig, serve

SCORE_HELP = """Score pictures: a table on a terminal, JSON lines into a pipe, a file with --out.
Exit codes: 0 every picture has all its scores; 3 some have not; 1 the run could not start or go on;
2 the command line is wrong; 130 interrupted."""
IMAGES_HELP = """picture files, folders, patterns such as 'photos/**/*.jpg', .jsonl lists of
{"image": PATH, "prompt": TEXT, ...}, or .txt lists of paths"""
# Options of ScoreConfig that need no value on the command line.
FLAGS = {
    "recursive": "look into the folders inside folders, too",
    "retry": "score again what failed before, in a run that goes on",
}


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        prog="reward_plugin", exit_on_error=False, description="Perceptual rewards for images."
    )
    commands = parser.add_subcommands(required=True)
    config_help = "YAML file with any of the options below"

    serving = ArgumentParser(exit_on_error=False, description="Run a reward server; see configs/reward/.")
    serving.add_argument("--config", action="config", help=config_help)
    serving.add_class_arguments(ServeConfig)
    commands.add_subcommand("serve", serving, help="answer score requests over HTTP")

    scoring = ArgumentParser(exit_on_error=False, description=SCORE_HELP)
    scoring.add_argument("images", nargs="+", type=str, help=IMAGES_HELP)
    scoring.add_argument("--config", action="config", help=config_help)
    scoring.add_class_arguments(ScoreConfig, skip=set(FLAGS))
    for name, text in FLAGS.items():
        scoring.add_argument(f"--{name}", action="store_true", help=text)
    commands.add_subcommand("score", scoring, help="score pictures: files, folders, lists")
    return parser


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
