"""The questions of a data set on their way to a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.unisim.answers import Answers
from eval.unisim.manifest import Manifest
from eval.unisim.samples import Sample
from eval.unisim.tasks import Judge, Undefined, evaluate


@dataclass
class Part:
    """One model's questions of one manifest.

    Attributes:
        manifest: All of them.
        root: Folder that picture names are relative to.
        answers: Those that are there, and where others go.
        look: Finds out what is wrong with the files of pictures; called where a question needs one.
        skipped: Why the model cannot do the task; None where it can.
    """

    manifest: Manifest
    root: Path
    answers: Answers
    look: Callable[[], Mapping[str, str]]
    skipped: str | None = None

    @property
    def broken(self) -> Mapping[str, str]:
        """Picture -> what is wrong with its file."""
        return self.look()

    @property
    def todo(self) -> list[Sample]:
        """Questions that are still to be asked, none where the model cannot do the task."""
        return self.answers.todo if self.skipped is None else []

    @property
    def pictures(self) -> list[str]:
        """Names of the pictures that these need, each once, without broken ones."""
        todo = self.todo
        if not todo:
            return []
        broken, named = self.broken, [name for sample in todo for name in sample.images]
        return [name for name in dict.fromkeys([*named, *self.manifest.gallery]) if name not in broken]

    def path(self, name: str) -> str:
        """Where a picture's file is."""
        return os.path.join(self.root, name)

    def ask(
        self, judge: Judge, at_once: int | None = None, done: Callable[[int], object] | None = None
    ) -> None:
        """Have the judge choose, and keep its answers; where it cannot, the reason.

        Args:
            judge: Whom to ask.
            at_once: Questions after which answers are kept; all by default.
            done: Told of so many new answers.
        """
        todo = self.todo
        for start in range(0, len(todo), at_once or len(todo) or 1):
            asked = todo[start : start + (at_once or len(todo))]
            try:
                found = evaluate(self.manifest.task, asked, judge, self.manifest.gallery)
            except Undefined as error:
                self.skipped = str(error)
                return
            self.answers.give(found)
            if done is not None:
                done(len(found))

    def rehearse(self, judge: Judge) -> None:
        """Ask a judge that takes notes of what it is asked; what it says is forgotten."""
        if not self.todo:
            return
        try:
            evaluate(self.manifest.task, self.todo, judge, self.manifest.gallery)
        except Undefined as error:
            self.skipped = str(error)


def first_problem(names: Iterable[str], problems: Mapping[str, str]) -> str | None:
    """What is wrong with the first picture that something is wrong with, its name in front."""
    return next((f"{name}: {problems[name]}" for name in names if name in problems), None)
