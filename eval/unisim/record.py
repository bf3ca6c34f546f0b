"""The record of a run of UniSim-Bench: `results.json`, from which tables and page are drawn.

Schema `eval.unisim`, version 1 (`eval/unisim/results.schema.json` is the same as JSON Schema):

    schema, version, title
    created      UTC, ISO 8601
    settings     the resolved config
    versions     of libraries, and the git commit
    confidence   coverage of every interval, such as 0.95
    manifests    [Asked]   which questions, in the order of every model's `datasets`
    models       [Model]   in the order of the config
    tau          [Tau]     agreement between tasks about the order of models
    problems     [str]     what a reader must know, one sentence each

The classes below are its objects; a field is a key. What is undefined is null, with its reason beside it.
Shares are 0 to 1. Readers must ignore keys they do not know. The version rises when a key changes meaning.

Questions that a picture is missing for are in `left_out` and count nowhere. Of the rest, a generative model's
answer that names no choice is in `unanswered` and counts as wrong, so

    questions = answered + unanswered + left_out,    accuracy = right / (answered + unanswered).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.results import write as write_record
from eval.unisim.samples import Task

SCHEMA, VERSION = "eval.unisim", 1
#: Tasks of the paper's tables 2 and 3, and the averages that it makes of each; `nafc` is in none.
CORE: tuple[Task, ...] = ("img_2afc", "it_2afc", "text_2afc", "iqa")
OOD: tuple[Task, ...] = ("paa", "ooo", "ir")
AVERAGES: dict[str, tuple[Task, ...]] = {"core": CORE, "ood": OOD, "all": CORE + OOD}


@dataclass(frozen=True)
class Asked:
    """The questions of one data set.

    Attributes:
        task: Which of the tasks.
        dataset: Short name; one of more tasks has one entry for each.
        file: Manifest that was read.
        sha256: Of that file.
        questions: How many; of `ir`, queries.
        pictures: Distinct pictures that they name, gallery included.
        naming: How often they name one, all together: `naming / pictures` is the reuse.
        texts: Distinct texts.
        gallery: Pictures that a query ranks; 0 but in `ir`.
        chance: Accuracy of guessing; None in `ir`.
        notes: What a reader must know.
    """

    task: Task
    dataset: str
    file: str
    sha256: str
    questions: int
    pictures: int
    naming: int
    texts: int
    gallery: int
    chance: float | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tally:
    """Counts of some questions.

    Attributes:
        answered: A choice was made.
        right: Of these, the right one.
        unanswered: Asked, and no choice could be read; counts as wrong.
        accuracy: Of `ir`, the mean of both mAP; None without a question.
        interval: Wilson's, of a share; of `ir`, by resampling queries; None without a question.
    """

    answered: int
    right: int
    unanswered: int
    accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Ranked:
    """What `ir` measures: revisited Oxford and Paris, arXiv 1803.11285.

    Attributes:
        medium: mAP with easy and hard pictures as positives and junk ignored.
        hard: mAP with hard ones as positives; easy ones and junk are ignored.
        queries_medium: Queries that have a positive.
        queries_hard: The same.
    """

    medium: float | None
    hard: float | None
    queries_medium: int
    queries_hard: int


@dataclass(frozen=True)
class Reason:
    """Why questions were left out.

    Attributes:
        reason: One sentence.
        count: Questions.
        example: Id of the first.
    """

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Cell:
    """One model on one data set.

    Attributes:
        task: Which of the tasks.
        dataset: As in `manifests`.
        skipped: Why the model was not asked at all; None where it was. Then all counts are 0.
        questions: Of the manifest.
        left_out: Questions that could not be asked, as of a picture that cannot be read.
        reasons: Why, most frequent first.
        answered: See `Tally`; under `technique`.
        right: The same.
        unanswered: The same.
        accuracy: The same.
        interval: The same.
        technique: The one that counts: the best on the average of the task's data sets, as published; None
            where there is only one way.
        by_technique: Each of them.
        by_choices: Of `nafc`: number of pictures, as text, -> its questions.
        ranked: Of `ir`.
        answers: File of rows, one for each question, relative to the record; None where skipped.
    """

    task: Task
    dataset: str
    skipped: str | None
    questions: int
    left_out: int
    reasons: list[Reason]
    answered: int
    right: int
    unanswered: int
    accuracy: float | None
    interval: tuple[float, float] | None
    technique: str | None
    by_technique: dict[str, Tally]
    by_choices: dict[str, Tally]
    ranked: Ranked | None
    answers: str | None


@dataclass(frozen=True)
class TaskScore:
    """One model on one task: the mean of its data sets, each counting the same.

    Attributes:
        accuracy: Under `technique`; None where the model answered nothing. Beside others it means something
            where nothing is missing.
        interval: Of the mean, from the intervals of its parts, which are independent.
        technique: See `Cell`.
        by_technique: Technique -> accuracy.
        datasets: Those in the mean.
        missing: Those that were to be in it and are not.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    technique: str | None
    by_technique: dict[str, float]
    datasets: list[str]
    missing: list[str]

    @property
    def whole(self) -> bool:
        """Whether it is a mean of all data sets."""
        return self.accuracy is not None and not self.missing


@dataclass(frozen=True)
class Average:
    """The mean of some tasks, each counting the same.

    Attributes:
        accuracy: None where a task, or one of its data sets, is missing: a mean over fewer is another
            quantity.
        interval: As in `TaskScore`.
        tasks: Those in the mean.
        missing: Those that were to be in it and are not.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    tasks: list[Task]
    missing: list[Task]


@dataclass(frozen=True)
class Model:
    """One model on everything.

    Attributes:
        name: From the config.
        kind: encoder, scorer, generative or pixels.
        group: From the config, such as general or specialised: tau is made for each.
        identity: What answered, in one short text with a digest of its files.
        settings: Its entry of the config.
        problem: Why it answered nothing, such as weights that cannot be loaded; None where it did.
        datasets: One for each manifest, in order.
        tasks: Task -> its mean, for tasks that a manifest has.
        averages: core, ood and all, see `AVERAGES`.
        encoded: Encoders only: {pictures, texts} that this run encoded, {kept_pictures, kept_texts} that an
            earlier one had.
    """

    name: str
    kind: str
    group: str | None
    identity: str
    settings: dict[str, Any]
    problem: str | None
    datasets: list[Cell]
    tasks: dict[Task, TaskScore]
    averages: dict[str, Average]
    encoded: dict[str, int]


@dataclass(frozen=True)
class Tau:
    """Whether two tasks order the models alike.

    Attributes:
        group: Models of this group only; None for all.
        first: Task.
        second: Task.
        tau: Kendall's tau-b, -1 to 1; None where it is undefined.
        p_value: Two-sided; None where it is undefined.
        n: Models that have both.
        undefined: Why; None where it is not.
    """

    group: str | None
    first: Task
    second: Task
    tau: float | None
    p_value: float | None
    n: int
    undefined: str | None


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write the record atomically; a number that is not finite is a mistake and refused."""
    write_record(record, path)


def read(path: Path) -> dict[str, Any]:
    """Read a record back.

    Raises:
        ValueError: The file is missing, no record of this benchmark, or of a version that is not read.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run `python -m eval unisim` first")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no record of UniSim-Bench; run `python -m eval unisim` to write one")
    if record.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {record.get('version')}, this program reads {VERSION}; run it again"
        )
    return record
