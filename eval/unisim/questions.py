"""The manifests of a run: found, prepared where they are missing, and read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.unisim.config import UnisimConfig
from eval.unisim.manifest import Manifest, read_manifest
from flow_grpo.files import replacing

#: File beside manifests: names of the data sets that are being prepared.
PREPARING = ".preparing"


@dataclass(frozen=True)
class Found:
    """The questions of a run.

    Attributes:
        manifests: With the file of each and the folder of its pictures, in order.
        problems: Why a data set that was asked for is not among them, one sentence each.
    """

    manifests: Sequence[tuple[Manifest, Path, Path]]
    problems: Sequence[str]


def find_questions(config: UnisimConfig) -> Found:
    """Read every manifest that the config asks for, and make those that are missing.

    Raises:
        ValueError: `only` allows nothing, or nothing can be read.
    """
    folder = Path(config.manifests)
    every = config.sets or _unfinished(folder) or _there(folder) or _begin(folder)
    names = [name for name in every if config.chooses(*split(name))]
    if not names:
        raise ValueError(f"only is {', '.join(config.only)}: no data set is left; name tasks or data sets")
    found: list[tuple[Manifest, Path, Path]] = []
    problems: list[str] = []
    for name in names:
        file, root = manifest_file(folder, name), config.root_of(*split(name))
        try:
            if root is None:
                raise ValueError("no folder of its pictures; give root, or its own in roots")
            if not file.is_file():
                _prepare(name, Path(root), file, config)
            found.append((_checked(file, name), file, Path(root)))
        except (ValueError, OSError) as error:
            problems.append(f"{name}: {' '.join(str(error).split())}")
            print(f"eval: left out {problems[-1]}", file=sys.stderr)
    if not config.sets and names == list(every):
        (folder / PREPARING).unlink(missing_ok=True)
    if not found:
        raise ValueError(f"no questions: {'; '.join(problems)}")
    return Found(found, problems)


def manifest_file(folder: Path, name: str) -> Path:
    """Where the manifest of TASK/DATASET lies."""
    return folder / f"{name.replace('/', '__')}.jsonl"


def split(name: str) -> tuple[str, str]:
    """Task and data set.

    Raises:
        ValueError: It is not written as TASK/DATASET.
    """
    task, slash, dataset = name.partition("/")
    if not (task and slash and dataset):
        raise ValueError(f"sets: {name!r} is not written as TASK/DATASET, such as iqa/kadid")
    return task, dataset


def _there(folder: Path) -> list[str]:
    """The data sets whose manifest lies there, in the order of tasks in the tables."""
    from eval.unisim.samples import TASKS

    names = [file.stem.split("__") for file in sorted(folder.glob("*__*.jsonl"))]
    names = [
        parts for parts in names if len(parts) == 2
    ]  # a third part is another split than the benchmark's
    order: dict[str, int] = {task: index for index, task in enumerate(TASKS)}
    return ["/".join(parts) for parts in sorted(names, key=lambda parts: order.get(parts[0], len(order)))]


def _begin(folder: Path) -> list[str]:
    """The whole benchmark; noted, so that what an interrupted run has prepared is not taken for all of it."""
    from eval.unisim.readers import READERS

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / PREPARING) as beside:
        beside.write_text("\n".join(READERS), encoding="utf-8")
    return list(READERS)


def _unfinished(folder: Path) -> list[str]:
    """What an interrupted run was preparing."""
    try:
        return (folder / PREPARING).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []


def _prepare(name: str, root: Path, file: Path, config: UnisimConfig) -> None:
    from eval.unisim.prepare import prepare

    print(f"eval: preparing {name} from {root}", file=sys.stderr)
    prepare(name, root, file.parent, config.seed, config.count)


def _checked(file: Path, name: str) -> Manifest:
    manifest = read_manifest(file)
    if (manifest.task, manifest.dataset) != split(name):
        raise ValueError(
            f"{file}: holds {manifest.task}/{manifest.dataset}, by its name {name}; rename the file"
        )
    return manifest
