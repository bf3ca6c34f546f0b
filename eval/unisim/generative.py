"""Generative models: each question is put in words, and the choice is read in what the model writes.

Answers are kept after every batch, because such a run takes days where that of an encoder takes minutes.
Solved examples come from other manifests, such as those of a training split: none of them shows a picture
that is asked about.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from eval.unisim.draw import number
from eval.unisim.manifest import Manifest, read_manifest
from eval.unisim.parts import Part, first_problem
from eval.unisim.samples import Sample
from eval.unisim.tasks import ONLY, Outcome
from reward_plugin.errors import ConfigError
from reward_plugin.unisim.questions import Answer, Question

#: An example: the question, and the index of its answer.
Solved = tuple[Question, int]


class Answers(Protocol):
    """What `reward_plugin.unisim.generative.GenerativeJudge` does."""

    def answer(self, questions: Sequence[Question], examples: Sequence[Any] = ()) -> list[Answer]:
        """Answer questions, each after the same examples."""


def ask_generative(
    parts: Sequence[Part],
    load: Callable[[], Answers],
    examples: Callable[[Part, Sample], Sequence[Any]],
    *,
    batch_size: int,
    label: str = "",
) -> dict[str, int]:
    """Answer all parts in words.

    Args:
        parts: The questions.
        load: Gets the model ready; not called where nothing is left to ask.
        examples: What is shown before a question, the same for questions of one `kind`.
        batch_size: Questions at once.
        label: Text of the progress bar; no bar without one.

    Returns:
        How many questions were put to the model.
    """
    for part in parts:
        if part.manifest.task == "ir":
            part.skipped = "it chooses between a few pictures, and ranks no gallery"
    total = sum(len(part.todo) for part in parts)
    if not total:
        return {"asked": 0}
    model, count = load(), 0
    with tqdm(total=total, desc=label, unit="q", disable=not (label and sys.stderr.isatty())) as bar:
        for part in parts:
            broken = part.broken if part.todo else {}
            lost = {sample.id: first_problem(sample.images, broken) for sample in part.todo}
            part.answers.give([Outcome(s, error=lost[s.id]) for s in part.todo if lost[s.id] is not None])
            bar.update(sum(reason is not None for reason in lost.values()))
            kinds: dict[Any, list[Sample]] = {}
            for sample in part.todo:
                kinds.setdefault(kind(sample), []).append(sample)
            for same in kinds.values():
                shown = examples(part, same[0])
                for start in range(0, len(same), batch_size):
                    batch = same[start : start + batch_size]
                    answers = model.answer([_question(sample, part.path) for sample in batch], shown)
                    part.answers.give(
                        [_outcome(s, answer, part) for s, answer in zip(batch, answers, strict=True)]
                    )
                    count += len(batch)
                    bar.update(len(batch))
    return {"asked": count}


def kind(sample: Sample) -> tuple[str | None, int]:
    """What questions must share to be asked after the same examples."""
    return sample.attribute, sample.choices


def draw_examples(
    manifest: Manifest,
    sample: Sample,
    sources: Sequence[tuple[Manifest, Path]],
    count: int,
    seed: int,
) -> list[Solved]:
    """Solved questions like one of a manifest, of its own data set as far as there are enough.

    Args:
        manifest: What is asked; no picture of it, by content, is in an example.
        sample: One of its questions, for the kind.
        sources: Manifests to draw from, and the folder of each one's pictures.
        count: How many.
        seed: Of the draw, which depends on nothing else but names.

    Raises:
        ConfigError: there are not so many.
    """
    asked = set(manifest.hashes.values())
    found: list[tuple[bool, int, Sample, Path]] = []
    for source, root in sources:
        if source.task != manifest.task:
            continue
        for other in source.samples:
            seen = asked & {source.hashes[name] for name in other.images}
            if kind(other) == kind(sample) and not seen:
                drawn = number("example", seed, source.dataset, source.split, other.id)
                found.append((source.dataset != manifest.dataset, drawn, other, root))
    if len(found) < count:
        about = manifest.task if sample.attribute is None else f"{manifest.task} of {sample.attribute}"
        raise ConfigError(
            f"examples_from: it has {len(found)} questions for {manifest.task}/{manifest.dataset} ({about}, "
            f"{sample.choices} choices, no picture in common), and {count} examples are asked for"
        )
    chosen = sorted(found, key=lambda entry: entry[:2])[:count]
    return [(_question(other, partial(os.path.join, root)), other.label or 0) for _, _, other, root in chosen]


def read_sources(folder: Path, root_of: Callable[[str, str], str | None]) -> list[tuple[Manifest, Path]]:
    """Every manifest of a folder, with the folder of its pictures.

    Raises:
        ConfigError: there is none.
        ValueError: one cannot be read.
    """
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        manifest = read_manifest(file)
        root = root_of(manifest.task, manifest.dataset)
        if root is not None:
            found.append((manifest, Path(root)))
    if not found:
        raise ConfigError(f"examples_from {folder}: no manifest is there")
    return found


def _question(sample: Sample, path: Callable[[str], str]) -> Question:
    return Question(sample.task, [path(name) for name in sample.images], sample.texts, sample.attribute)


def _outcome(sample: Sample, answer: Answer, part: Part) -> Outcome:
    if answer.error is None:
        return Outcome(sample, {ONLY: answer.choice}, text=answer.text)
    # a picture's own message begins with its path
    names: Mapping[str, str] = {part.path(name): name for name in sample.images}
    for path, name in names.items():
        if answer.error.startswith(path):
            return Outcome(sample, error=f"{name}{answer.error.removeprefix(path)}")
    return Outcome(sample, error=answer.error)
