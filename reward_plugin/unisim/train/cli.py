"""The command line: a YAML file, dotted keys on top, one message for anything wrong."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reward_plugin.errors import ConfigError
from reward_plugin.unisim.train.checks import check
from reward_plugin.unisim.train.config import TrainConfig

USAGE = "accelerate launch -m reward_plugin.train_unisim --config FILE [--any.key VALUE] [--resume X]"


@dataclass(frozen=True)
class Invocation:
    """A parsed command line.

    Attributes:
        config: The run.
        resume: auto: from the newest checkpoint in run_dir if there is one; none: refuse to touch a run that
            has begun; otherwise the path of a checkpoint.
        dry_run: Read everything but the weights, say what would run, and run nothing.
    """

    config: TrainConfig
    resume: str = "auto"
    dry_run: bool = False


def parse(arguments: Sequence[str] | None = None) -> Invocation:
    """Read `--config FILE --any.key value`; exits with code 2 and one message on anything wrong."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="reward_plugin.train_unisim",
        usage=USAGE,
        description="Train a UniSim encoder: LoRA on a CLIP's vision tower, on questions of four tasks.",
    )
    parser.add_argument(
        "--config", action="config", help="YAML file; keys given on the command line come on top."
    )
    parser.add_argument(
        "--resume",
        type=str,
        default="auto",
        help="auto, none, or the path of a checkpoint folder (default: auto).",
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Say what would run and stop.")
    parser.add_class_arguments(TrainConfig)
    values = parser.parse_args(arguments)
    try:
        for file in values.config or []:
            refuse_stray_keys(Path(str(file)))
        made = parser.instantiate(values)
        config = TrainConfig(**{name: made[name] for name in TrainConfig.__dataclass_fields__})
        check(config)
    except ConfigError as error:
        parser.error(str(error))
    return Invocation(config, values.resume, values.dry_run)


def refuse_stray_keys(file: Path) -> None:
    """Find what jsonargparse passes over in silence: an unknown key without leaves (`foo: {}`), and a section
    that is null, as when all of its keys are commented out.

    Raises:
        ConfigError: naming the key.
    """
    import yaml

    for key in stray_keys(yaml.safe_load(file.read_text(encoding="utf-8")), TrainConfig):
        raise ConfigError(f"{file}: {key}")


def stray_keys(written: Any, kind: type, place: str = "") -> Iterator[str]:
    """What of a mapping does not fit a dataclass: keys that it does not have, and sections that are empty."""
    if not isinstance(written, dict):
        if dataclasses.is_dataclass(kind):
            yield f"{place} is {written!r}, but it holds keys; give some of them, or leave out {place}"
        return
    hints = typing.get_type_hints(kind)
    for name, value in written.items():
        key = f"{place}.{name}" if place else str(name)
        if name not in hints:
            yield f"unknown key {key}; known here: {', '.join(hints)}"
        elif dataclasses.is_dataclass(hints[name]):
            yield from stray_keys(value, typing.cast("type", hints[name]), key)


def as_yaml(config: TrainConfig) -> str:
    """The resolved configuration, in the form that `--config` reads."""
    import yaml

    return str(yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Tuples as lists, which is how YAML writes both."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
