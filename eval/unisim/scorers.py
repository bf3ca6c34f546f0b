"""Reward models as judges: each distinct picture, with its text where one counts, is scored once.

What is asked of a scorer is found out by letting the evaluators ask a judge that only takes notes. All of it
is then scored in one pass by what `python -m reward_plugin score` is made of, into `scores/`, a row as it is
scored, so that a run goes on where it ended; and the evaluators ask again, with answers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from eval.unisim.parts import Part
from eval.unisim.samples import Attribute, Task
from eval.unisim.tasks import ONLY, Undefined, Values
from reward_plugin.errors import ConfigError
from reward_plugin.score.command import score_items
from reward_plugin.score.config import ScoreConfig
from reward_plugin.score.inputs import Item
from reward_plugin.score.rows import Row, dimensions_of
from reward_plugin.unisim.prompts import QUANTITIES, texts_for

#: A picture's path and the text that it is scored with, if any.
Pair: TypeAlias = tuple[str, str | None]

#: Key of a row beside the scores: hash of the picture, by which a changed file is noticed.
SHA256 = "sha256"
#: Scorer that compares a picture with a text -> its dimension that does; None: the only one it has.
PROMPTED: dict[str, str | None] = {
    "clip": None,
    "pickscore": None,
    "hpsv2": None,
    "imagereward": None,
    "unisim": "unisim_adherence",
    "ocr": None,
}
#: Those that rate quality and attributes by a text that names them, as published.
NAMED = frozenset({"clip", "pickscore", "hpsv2", "imagereward"})
#: Scorer of pictures alone -> `quality`, or an attribute of `paa`, -> dimension. A scorer that stands nowhere
#: here, such as one of pyiqa, has one dimension, which is taken for quality.
ALONE: dict[str, dict[str, str]] = {
    "unipercept": {"quality": "iqa"},
    "artimuse": {"quality": "artimuse"},
    "laion": {"quality": "laion_aesthetic"},
    "pixels": {"quality": "sharpness", "colorfulness": "colourfulness", "sharpness": "sharpness"},
    "naive": {"quality": "naive_pixels"},
    "unisim": {quantity: f"unisim_{quantity}" for quantity in QUANTITIES},
    "ocr": {},
}


@dataclass(frozen=True)
class Way:
    """How a scorer does a task.

    Attributes:
        column: Dimension; None: the only one.
        sign: -1 where lower is better.
        prompted: Whether the text of the question is scored with the picture.
        named: Whether the config names the dimension, which then must be there.
    """

    column: str | None
    sign: int
    prompted: bool
    named: bool = False


def way(scorer: str, task: Task, attribute: Attribute | None, columns: Mapping[str, str]) -> Way:
    """How a scorer does a task.

    Args:
        scorer: Its name in `SCORERS`.
        task: Which.
        attribute: Of `paa`.
        columns: Task, or task/attribute, -> dimension, "-" in front where lower is better; see
            `ModelConfig`.

    Raises:
        Undefined: it cannot, and no column is named for it.
    """
    rates = task in ("iqa", "paa")
    prompted = scorer in NAMED if rates else scorer in PROMPTED
    named = columns.get(f"{task}/{attribute}", columns.get(task))
    if named is not None:
        return Way(named.removeprefix("-"), -1 if named.startswith("-") else 1, prompted, True)
    if prompted:
        return Way(PROMPTED[scorer], 1, True)
    if not rates:
        raise Undefined(
            f"{scorer} looks at no text; name a dimension in columns.{task} to choose by it all the same"
        )
    if scorer not in ALONE and task == "iqa":
        return Way(None, 1, False)
    quantity = attribute or "quality"
    column = ALONE.get(scorer, {}).get(quantity)
    if column is None:
        raise Undefined(f"{scorer} has no dimension for {quantity}; name one in columns to choose by it")
    return Way(column, 1, False)


@dataclass(frozen=True)
class Scored:
    """All scores of one scorer.

    Attributes:
        rows: Pair -> its row.
        dimensions: Names of the scores in them; none where every row has an error.
        failures: Path -> text -> why it has no score.
    """

    rows: Mapping[Pair, Row]
    dimensions: Sequence[str]
    failures: Mapping[str, Mapping[str | None, str]]

    @staticmethod
    def of(rows: Mapping[Pair, Row]) -> Scored:
        """Gather what rows say."""
        failures: dict[str, dict[str | None, str]] = {}
        for (path, text), row in rows.items():
            if row["error"]:
                failures.setdefault(path, {})[text] = str(row["error"]).removeprefix(f"{path}: ")
        return Scored(rows, dimensions_of(list(rows.values()), (SHA256,)), failures)


@dataclass
class ScorerJudge:
    """Chooses by scores; see `eval.unisim.tasks.Judge`. Without `scored` it notes what is asked, in `asked`.

    Attributes:
        part: Whose questions.
        scorer: Its name in `SCORERS`.
        columns: See `way`.
        techniques: How a scorer that compares with a text rates quality and attributes.
        scored: What the scorer said.
        asked: Pair -> the picture's hash, of pairs that were asked for.
    """

    part: Part
    scorer: str
    columns: Mapping[str, str]
    techniques: Sequence[str]
    scored: Scored | None = None
    asked: dict[Pair, str] = field(default_factory=dict)

    def alike(self, first: Sequence[str], second: Sequence[str]) -> Values:
        """Undefined."""
        raise Undefined(f"{self.scorer} gives one picture a number, and compares no two")

    def fits(self, images: Sequence[str], texts: Sequence[str]) -> Values:
        """Score of each picture with its text, or of the picture alone where the scorer looks at no text."""
        task = self.part.manifest.task
        how = way(self.scorer, task, None, self.columns)
        if task == "text_2afc" and not how.prompted:
            raise Undefined(f"{self.scorer} looks at no text, and both are of one picture")
        return {ONLY: self._scores(images, list(texts) if how.prompted else [None] * len(images), how)}

    def shows(self, images: Sequence[str], attribute: Attribute | None) -> Values:
        """Score of each picture; with a text that names the attribute where the scorer compares with one."""
        how = way(self.scorer, self.part.manifest.task, attribute, self.columns)
        if not how.prompted:
            return {ONLY: self._scores(images, [None] * len(images), how)}
        found = {}
        for name in self.techniques:
            texts = texts_for(attribute or "quality", name)
            scores = [self._scores(images, [text] * len(images), how) for text in texts]
            # a softmax over text and opposite rises with their difference, but runs into 0 and 1
            found[name] = scores[0] if len(scores) == 1 else scores[0] - scores[1]
        return found

    def why(self, images: Sequence[str], texts: Sequence[str]) -> str | None:
        """What is wrong with the first broken picture, or what the scorer said of it."""
        for name in images:
            reason = self.part.broken.get(name)
            failed = self.scored.failures.get(self.part.path(name), {}) if self.scored else {}
            if reason is None and failed:
                reason = next((failed[text] for text in texts if text in failed), next(iter(failed.values())))
            if reason is not None:
                return f"{name}: {reason}"
        return None

    def _scores(self, images: Sequence[str], texts: Sequence[str | None], how: Way) -> np.ndarray:
        pairs = [(self.part.path(name), text) for name, text in zip(images, texts, strict=True)]
        if self.scored is None:
            hashes = self.part.manifest.hashes
            fine = [name not in self.part.broken for name in images]
            self.asked |= {
                pair: hashes[name] for pair, name, good in zip(pairs, images, fine, strict=True) if good
            }
            return np.zeros(len(pairs))
        column = self._column(how, self.scored.dimensions)
        values = [self.scored.rows.get(pair, {}).get(column) for pair in pairs]
        return how.sign * np.array([math.nan if value is None else float(value) for value in values])

    def _column(self, how: Way, names: Sequence[str]) -> str:
        """The name that the dimension has in rows, where it may stand behind a prefix."""
        if not names:  # every row has an error, which says why
            return how.column or ""
        if how.column is None and len(names) > 1:
            raise Undefined(f"{self.scorer} has {', '.join(names)}; name the one to choose by in columns")
        if how.column is None or how.column in names:
            return how.column or names[0]
        ending = [name for name in names if name.endswith(f"_{how.column}")]
        if not ending and how.named:
            raise ConfigError(f"columns: no dimension {how.column!r}; {self.scorer} has {', '.join(names)}")
        if not ending:
            raise Undefined(f"{self.scorer} gives no {how.column}; there are {', '.join(names)}")
        return ending[0]


def ask_scorer(
    parts: Sequence[Part],
    spec: Mapping[str, Any],
    path: Path,
    *,
    columns: Mapping[str, str],
    techniques: Sequence[str],
    batch_size: int,
    workers: int,
) -> dict[str, int]:
    """Answer all parts by scores.

    Args:
        parts: The questions.
        spec: The scorer, as `build_scorer` takes it.
        path: File of its rows, .jsonl.
        columns: See `way`.
        techniques: How a scorer that compares with a text rates quality and attributes.
        batch_size: Pictures at once.
        workers: Threads that read and decode.

    Returns:
        How many pairs were needed.

    Raises:
        RewardError: scoring could not start or go on.
        KeyboardInterrupt: the user interrupted it.
    """
    judges = [ScorerJudge(part, str(spec["name"]), columns, techniques) for part in parts]
    for judge in judges:
        judge.part.rehearse(judge)
    asked = {pair: key for judge in judges for pair, key in judge.asked.items()}
    items = [Item(picture, text, {SHA256: key}) for (picture, text), key in asked.items()]
    rows: list[Row] = []
    if items:
        path.parent.mkdir(parents=True, exist_ok=True)
        hashes = {item.key[0]: item.extra[SHA256] for item in items}
        config = ScoreConfig(
            scorers=[dict(spec)], out=path, retry=True, batch_size=batch_size, workers=workers
        )
        found = score_items(items, config, lambda row: _stale(row, hashes))
        if found is None:
            raise KeyboardInterrupt
        rows = found[0]
    scored = Scored.of(dict(zip(asked, rows, strict=True)))
    for judge in judges:
        judge.scored = scored
        judge.part.ask(judge)
    return {"scored": len(items)}


def _stale(row: Row, hashes: Mapping[str, str]) -> bool:
    """Whether a row is of a file that another one has taken the place of."""
    key = hashes.get(os.path.abspath(row["image"]))
    return key is not None and row.get(SHA256) != key
