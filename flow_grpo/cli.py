"""The command line: a YAML file, dotted keys on top, one message for anything wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flow_grpo.checks import check
from flow_grpo.config import TrainConfig
from flow_grpo.cost import GPUS
from flow_grpo.plan import MFU


@dataclass(frozen=True)
class Invocation:
    """A parsed command line.

    Attributes:
        config: The run.
        dry_run: Report what would run, and run nothing.
        resume: auto: from the newest checkpoint in run_dir if there is one; none: refuse to touch a run that
            has begun; otherwise the path of a checkpoint.
        gpu: Card, of `flow_grpo.cost.GPUS`, whose time a dry run computes; none: no time.
        mfu: Share of its peak that is assumed to be reached.
        processes: That a dry run reckons with; none: those of the launch.
        split: What they share out, see `flow_grpo.plan.describe`; none given: what the launch says.
    """

    config: TrainConfig
    dry_run: bool = False
    resume: str = "auto"
    gpu: str | None = None
    mfu: float = MFU
    processes: int | None = None
    split: str | None = None


def parse(arguments: Sequence[str] | None = None) -> Invocation:
    """Read `--config FILE --any.key value`; exits with code 2 and one message on anything wrong."""
    from flow_grpo.parser import Parser

    parser = Parser(
        prog="flow_grpo.train",
        usage="accelerate launch -m flow_grpo.train --config FILE [--any.key VALUE] [--dry-run] [--resume X]",
        description="Fine-tune a FLUX LoRA with Flow-GRPO against perceptual rewards.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="YAML file; keys given on the command line come on top."
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Report what would run and stop.")
    parser.add_argument(
        "--resume",
        type=str,
        default="auto",
        help="auto, none, or the path of a checkpoint folder (default: auto).",
    )
    parser.add_argument(
        "--gpu", choices=sorted(GPUS), help="With --dry-run: compute the time of an iteration on this card."
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=MFU,
        help=f"With --gpu: share of its dense bf16 peak assumed to be reached (default: {MFU}).",
    )
    parser.add_argument(
        "--processes", type=int, help="With --dry-run: reckon with so many (default: those of the launch)."
    )
    parser.add_argument(
        "--split",
        choices=("none", "fsdp2", "zero2"),
        help="With --dry-run: what processes share out: nothing, the transformer's weights (fsdp2), or the "
        "adapters' gradients and optimizer (zero2) (default: what the launch says).",
    )
    parser.add_class_arguments(TrainConfig)
    values = parser.instantiate(parser.parse_args(arguments))
    config = TrainConfig(**{name: values[name] for name in TrainConfig.__dataclass_fields__})
    if not 0 < values["mfu"] <= 1:
        parser.error(f"--mfu is {values['mfu']}: it must be greater than 0 and at most 1; give e.g. {MFU}.")
    if values["processes"] is not None and values["processes"] < 1:
        parser.error(f"--processes is {values['processes']}: it must be at least 1.")
    try:
        check(config)
    except ValueError as error:
        parser.error(str(error))
    told = {name: values[name] for name in ("dry_run", "resume", "gpu", "mfu", "processes", "split")}
    return Invocation(config, **told)


def as_yaml(config: TrainConfig) -> str:
    """The resolved configuration, in the form that `--config` reads."""
    import yaml

    return str(yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Tuples as lists, which is how YAML writes both."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
