"""Questions to train on, from the manifests that `eval.unisim` writes, and in which order they come.

Which questions a step has follows from the run's seed and the step alone: neither the number of processes nor
a pause changes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_plugin.errors import ConfigError
from reward_plugin.unisim.train.config import QuestionsConfig, SourceConfig, Task

FORMAT, VERSION = "unisim-bench manifest", 1
#: Task -> how many images and texts a question has.
SHAPES: Mapping[Task, tuple[int, int]] = {
    "img_2afc": (3, 0),
    "it_2afc": (2, 1),
    "text_2afc": (1, 2),
    "iqa": (2, 0),
}


@dataclass(frozen=True)
class Question:
    """Which of two choices?

    Attributes:
        images: Files. `img_2afc`: the reference and the two choices; `text_2afc`: the picture; else the
            choices.
        texts: `it_2afc`: the prompt; `text_2afc`: the choices; else none.
        label: 0 or 1, the right choice.
    """

    images: tuple[Path, ...]
    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Source:
    """A data set: its name and its questions."""

    name: str
    questions: Sequence[Question]


def read_all(config: QuestionsConfig, limit: int | None = None) -> dict[Task, tuple[Source, ...]]:
    """The data sets of every task that has some; of each the first `limit` questions.

    Raises:
        ConfigError: a manifest or a picture is not there, or is not what it should be.
    """
    return {
        task: tuple(read_source(source, task, limit) for source in sources)
        for task, sources in config.by_task().items()
    }


def read_source(source: SourceConfig, task: Task, limit: int | None = None) -> Source:
    """Read a manifest; its first picture has to be there, which tells a wrong root at once.

    Raises:
        ConfigError: naming the file, the line and the rule.
    """
    path, root = Path(source.manifest), Path(source.root)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    first, *lines = text.splitlines() or [""]
    header = _parsed(first, f"{path}:1")
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise ConfigError(
            f"{path}:1: format {header.get('format')!r}, version {header.get('version')!r}; this reads "
            f"{FORMAT!r}, version {VERSION}"
        )
    if header.get("task") != task:
        raise ConfigError(f"{path}:1: task {header.get('task')!r}, but it is listed under {task}")
    if not lines or header.get("samples") != len(lines):
        raise ConfigError(
            f"{path}:1: samples {header.get('samples')!r}, but {len(lines)} questions follow; make it again"
        )
    questions = [
        _question(_parsed(line, f"{path}:{number}"), task, root, f"{path}:{number}")
        for number, line in enumerate(lines[:limit], start=2)
    ]
    if not questions[0].images[0].is_file():
        raise ConfigError(
            f"{path}: its first picture, {questions[0].images[0]}, is not there; root {source.root!r} is the "
            "folder below which the pictures lie"
        )
    return Source(str(header.get("dataset", path.stem)), questions)


def flattened(sources: Mapping[Task, Sequence[Source]]) -> dict[Task, list[Question]]:
    """The questions of each task as one list."""
    return {task: [q for source in given for q in source.questions] for task, given in sources.items()}


def texts_of(questions: Mapping[Task, Sequence[Question]]) -> list[str]:
    """Every text once, in the order of first use."""
    return list(dict.fromkeys(t for given in questions.values() for q in given for t in q.texts))


def fingerprint(questions: Mapping[Task, Sequence[Question]]) -> str:
    """Changes when a question, a label or their order does; where the pictures' root lies does not matter."""
    digest = hashlib.sha256()
    for task, given in questions.items():
        for question in given:
            names = [path.name for path in question.images]
            digest.update(repr((task, names, question.texts, question.label)).encode())
    return digest.hexdigest()[:16]


def drawn(step: int, batch: int, available: int, task: Task, seed: int) -> list[int]:
    """Positions of a step's questions of one task.

    They are the next `batch` of an endless row of random orders of all questions, so each is seen once before
    any is seen again.
    """
    places = (divmod(place, available) for place in range(step * batch, (step + 1) * batch))
    return [_order(available, task, seed, turn)[offset] for turn, offset in places]


def share(items: Sequence[int], rank: int, processes: int) -> Sequence[int]:
    """This process's part, contiguous, so that the ranks in order give the whole."""
    assert len(items) % processes == 0
    size = len(items) // processes
    return items[rank * size : (rank + 1) * size]


def seed_of(*identity: int | str) -> int:
    """A 63-bit seed from integers and texts, the same on every machine and Python."""
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@functools.lru_cache(maxsize=16)
def _order(available: int, task: Task, seed: int, turn: int) -> list[int]:
    import torch

    generator = torch.Generator().manual_seed(seed_of(seed, "order", task, turn))
    return torch.randperm(available, generator=generator).tolist()


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: holds a {type(value).__name__}; each line is a JSON object")
    return value


def _question(line: Mapping[str, Any], task: Task, root: Path, where: str) -> Question:
    images, texts, label = line.get("images"), line.get("texts", []), line.get("label")
    for key, values, count in zip(("images", "texts"), (images, texts), SHAPES[task], strict=True):
        if not isinstance(values, list) or len(values) != count or not all(_is_text(v) for v in values):
            raise ConfigError(f"{where}: {key} is {values!r}; {task} has {count}, each a text")
    if type(label) is not int or label not in (0, 1):
        raise ConfigError(f"{where}: label is {label!r}; it is 0 or 1, the choice that is right")
    assert images is not None
    return Question(tuple(root / name for name in images), tuple(texts), label)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def chunks(sizes: Mapping[Task, int], count: int | None) -> Iterator[dict[Task, slice]]:
    """Micro-batches: slices of `count` questions of each task; None: all in one."""
    longest = max(sizes.values())
    for start in range(0, longest, count or longest):
        stop = start + (count or longest)
        yield {task: slice(start, min(stop, size)) for task, size in sizes.items() if start < size}
