"""The matrix of an ablation: which runs there are, and what each one's configuration is.

Nothing here is imported for type checkers only: the command line resolves annotations.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from eval.config import CompareConfig


@dataclass(frozen=True)
class ClusterConfig:
    """What one run takes of a node of a Ray cluster; without --ray it is not read.

    Attributes:
        cpus: Cores, which are also its compute threads.
        gpus: GPUs; the run sees no others. Give `accelerate` a configuration with as many processes.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise ValueError(
                f"cluster.cpus is {self.cpus}, gpus {self.gpus}; at least one core, and no fewer than 0 GPUs"
            )


@dataclass(frozen=True)
class AblateConfig:
    """A matrix of training runs, each compared with its base on held-out prompts.

    Attributes:
        title: Heading of the tables.
        train: Configuration of the trainer that every run starts from.
        evaluation: Configuration of `eval compare` for every run; its weights become those of the training.
        accelerate: Configuration of `accelerate launch`.
        server: Configuration of one reward server for all runs; none: their own scorers, or reward.url.
        cluster: What a run takes of a node, with --ray.
        out: Folder of all runs and of the tables.
        axes: Axis -> variant -> trainer's key -> value, e.g. {remedy: {kl: {regularizer.kl_weight: 0.1}}}.
            The runs are all combinations of one variant of each axis; of two values the later axis's counts.
            None: the reward's weights, see `simplex`.
        simplex: Without axes, the dimensions whose weights are the matrix: each alone, each two and all of
            them in equal parts.
        seeds: Every combination is run once with each; intervals are over them.
        skip: Combinations to leave out, as patterns of their names, such as naive/kl_*.
        reference: Variant of the last axis whose reward gain with the same seeds the others' is a share of;
            none: no such column.
        columns: Dimensions in the tables beside the reward, of any that is measured; the files have them all.
        confidence: Coverage of the intervals, in (0, 1).
        seconds_per_run: What --dry_run reckons with until a run has been measured.

    Raises:
        ValueError: There is nothing to run, or the reference is no variant.
    """

    title: str = "Ablation"
    train: str = "configs/pocket.yaml"
    evaluation: str = "configs/eval/pocket.yaml"
    accelerate: str = "configs/accelerate/one_cpu.yaml"
    server: str | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    out: str = "runs/ablation"
    axes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    simplex: list[str] = field(default_factory=lambda: ["iaa", "iqa", "ista"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    skip: list[str] = field(default_factory=list)
    reference: str | None = None
    columns: list[str] = field(default_factory=lambda: ["adherence", "diversity"])
    confidence: float = 0.95
    seconds_per_run: float = 300.0

    def __post_init__(self) -> None:
        if not self.axes:
            object.__setattr__(self, "axes", {"weights": simplex(self.simplex)})
        if not all(self.axes.values()):
            raise ValueError(f"axes is {self.axes}; name a variant of each")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; give at least one seed, and none twice")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence is {self.confidence}; it lies between 0 and 1, like 0.95")
        for name in itertools.chain.from_iterable(self.axes.values()):
            if not name or set(name) & set("/\\*?[] ") or name.startswith("."):
                raise ValueError(
                    f"axes: a variant is called {name!r}; it names a folder: letters, digits, - and _"
                )
        last = list(self.axes.values())[-1]
        if self.reference is not None and self.reference not in last:
            raise ValueError(f"reference is {self.reference!r}; variants of the last axis: {', '.join(last)}")


def simplex(dimensions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Variants of the reward's weights: each dimension alone, each two in equal parts, and all.

    Raises:
        ValueError: There is none, or one twice.
    """
    if not dimensions or len(set(dimensions)) < len(dimensions):
        raise ValueError(f"simplex is {list(dimensions)}; name at least one dimension, and none twice")
    sizes = sorted({1, min(2, len(dimensions)), len(dimensions)})
    mixed = [names for size in sizes for names in itertools.combinations(dimensions, size)]
    return {
        "_".join(names): {"reward.weights": {name: round(1 / len(names), 4) for name in names}}
        for names in mixed
    }


@dataclass(frozen=True)
class Run:
    """One training run and its evaluation.

    Attributes:
        name: Variants and seed, joined by slashes; its folder within `out`.
        variants: Axis -> variant.
        seed: Of the run.
        folder: Where everything of it lies.
        train: Resolved configuration of the trainer.
        evaluation: Resolved configuration of the comparison.
    """

    name: str
    variants: Mapping[str, str]
    seed: int
    folder: Path
    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @property
    def combination(self) -> str:
        """The name without the seed."""
        return "/".join(self.variants.values())

    def seeded(self, config: AblateConfig, seed: int) -> Run:
        """The run of this combination with a seed, in its folder."""
        name = f"{'/'.join(self.variants.values())}/seed{seed}"
        folder = Path(config.out) / name
        place = {"run_dir": str(folder / "train")}
        train = {**self.train, "seed": seed, **place}
        titled = {"title": f"{config.title}: {name}", "out": str(folder / "eval")}
        return Run(name, self.variants, seed, folder, train, {**self.evaluation, **titled, **place})

    @property
    def identity(self) -> str:
        """Changes with anything in the configuration, but not with the content of files that it names."""
        text = yaml.safe_dump([dict(self.train), dict(self.evaluation)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def expand(config: AblateConfig) -> list[Run]:
    """All runs, seed by seed, so that there is one of each combination early.

    Raises:
        ValueError: A file cannot be read, or a combination is no valid configuration.
    """
    base, evaluation = read_mapping(config.train), read_mapping(config.evaluation)
    combinations = [
        names
        for names in itertools.product(*config.axes.values())
        if not any(fnmatch("/".join(names), pattern) for pattern in config.skip)
    ]
    first = {names: _run(config, base, evaluation, names) for names in combinations}
    runs = [first[names].seeded(config, seed) for seed in config.seeds for names in combinations]
    if not runs:
        raise ValueError(f"skip is {config.skip}, which leaves nothing to run")
    return runs


def chosen(runs: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """Runs whose name, or combination, matches one of the patterns; all without any.

    Raises:
        ValueError: A pattern matches nothing.
    """
    for pattern in patterns:
        if not any(_matches(run, pattern) for run in runs):
            raise ValueError(f"only: {pattern!r} matches no run; --list shows their names")
    return [run for run in runs if not patterns or any(_matches(run, pattern) for pattern in patterns)]


def _matches(run: Run, pattern: str) -> bool:
    return fnmatch(run.name, pattern) or fnmatch(run.combination, pattern)


def _run(
    config: AblateConfig, base: Mapping[str, Any], evaluation: Mapping[str, Any], names: Sequence[str]
) -> Run:
    """A combination's run with the base's seed."""
    settings: dict[str, Any] = {}
    for axis, variant in zip(config.axes.values(), names, strict=True):
        settings |= axis[variant]
    try:
        train = resolve_train(override(base, settings))
        weights = {"reward.weights": train["reward"]["weights"]}
        compared = resolve_comparison(override(evaluation, {**weights, "run_dir": "", "out": ""}))
    except ValueError as error:
        raise ValueError(f"{'/'.join(names)}: {error}") from error
    variants = dict(zip(config.axes, names, strict=True))
    return Run("/".join(names), variants, train["seed"], Path(), train, compared)


def override(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted keys set; what a key had before is replaced, not merged into.

    Raises:
        ValueError: A key leads through something that holds no keys.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(base)))
    for key, value in settings.items():
        *path, last = key.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key}: {part} holds no keys")
        place[last] = value
    return result


def resolve_train(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's configuration with its defaults.

    Raises:
        ValueError: It is not valid; the trainer's own message.
    """
    from flow_grpo.cli import as_yaml, parse

    messages = io.StringIO()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(dict(values), file, sort_keys=False)
        file.flush()
        try:
            with contextlib.redirect_stderr(messages):
                parsed = parse(["--config", file.name]).config
        except SystemExit as error:
            # Usage first, then a tip, then what is wrong.
            raise ValueError(messages.getvalue().strip().rpartition("error: ")[2]) from error
    resolved: dict[str, Any] = yaml.safe_load(as_yaml(parsed))
    return resolved


def resolve_comparison(values: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison's configuration, checked as it is written.

    Raises:
        ValueError: It is not valid.
    """
    from jsonargparse import ArgumentError

    from flow_grpo.parser import Parser

    parser = Parser(exit_on_error=False)
    parser.add_class_arguments(CompareConfig)
    try:
        parser.instantiate(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise ValueError(str(error)) from error
    return dict(values)


def read_mapping(path: str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ValueError: It is missing, not YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys")
    return values
