"""From a model's answers to its part of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.unisim.manifest import Manifest
from eval.unisim.record import AVERAGES, Asked, Average, Cell, Ranked, Reason, Tally, TaskScore
from eval.unisim.retrieval import mean_of_settings
from eval.unisim.samples import Task
from eval.unisim.statistics import average, best_technique, mean, tally, tally_ranked
from eval.unisim.tasks import ONLY, Outcome

NOTHING = Tally(0, 0, 0, None, None)


@dataclass(frozen=True)
class Answered:
    """One model's answers to one manifest.

    Attributes:
        manifest: The questions.
        outcomes: What became of them.
        file: Of the answers, relative to the record.
        skipped: Why the model was not asked; None where it was.
    """

    manifest: Manifest
    outcomes: Sequence[Outcome] = ()
    file: str | None = None
    skipped: str | None = None

    @property
    def there(self) -> list[Outcome]:
        """Questions that were asked."""
        return [outcome for outcome in self.outcomes if outcome.error is None]


def asked(manifest: Manifest, file: str) -> Asked:
    """What the record says of a manifest; `file` is where it was read."""
    named = [name for sample in manifest.samples for name in sample.images]
    texts = {text for sample in manifest.samples for text in sample.texts}
    ranks = manifest.task == "ir"
    chances = [1 / sample.choices for sample in manifest.samples if not ranks]
    return Asked(
        task=manifest.task,
        dataset=manifest.dataset,
        file=file,
        sha256=manifest.digest,
        questions=len(manifest.samples),
        pictures=len(manifest.names),
        # a gallery is compared with every query
        naming=len(named) + len(manifest.gallery) * len(manifest.samples),
        texts=len(texts),
        gallery=len(manifest.gallery),
        chance=None if ranks else sum(chances) / len(chances),
        notes=list(manifest.notes),
    )


def cells(
    parts: Sequence[Answered], confidence: float, seed: int = 0
) -> tuple[list[Cell], dict[Task, TaskScore], dict[str, Average]]:
    """One model on every data set, every task, and on average.

    Args:
        parts: Its answers, one of each data set.
        confidence: Coverage of the intervals.
        seed: Of the queries that are resampled.
    """
    counts = [_counts(part, confidence, seed) for part in parts]
    found: list[Cell] = []
    tasks: dict[Task, TaskScore] = {}
    best: dict[Task, tuple[str | None, dict[str, float]]] = {}
    for part, tallies in zip(parts, counts, strict=True):
        task = part.manifest.task
        if task not in best:
            same = [other for of, other in zip(parts, counts, strict=True) if of.manifest.task == task]
            best[task] = best_technique([other for other in same if _any(other)])
        found.append(_cell(part, tallies, best[task][0], confidence))
    for task, (technique, means) in best.items():
        mine = [cell for cell in found if cell.task == task]
        there = [cell for cell in mine if cell.accuracy is not None]
        accuracy, interval = mean([(cell.accuracy, cell.interval) for cell in there])
        tasks[task] = TaskScore(
            accuracy=accuracy,
            interval=interval,
            technique=technique or None,
            by_technique={} if list(means) == [ONLY] else means,
            datasets=[cell.dataset for cell in there],
            missing=[cell.dataset for cell in mine if cell not in there],
        )
    return found, tasks, {name: average(tasks, name) for name in AVERAGES}


def _counts(part: Answered, confidence: float, seed: int) -> dict[str, Tally]:
    """Technique -> counts; none where the model was not asked."""
    if part.skipped is not None:
        return {}
    there = part.there
    if part.manifest.task == "ir":
        return {ONLY: tally_ranked(_precisions(there), confidence, seed)}
    return {name: _tally(there, name, confidence) for name in (there[0].choices if there else [ONLY])}


def _cell(part: Answered, tallies: Mapping[str, Tally], technique: str | None, confidence: float) -> Cell:
    manifest, there = part.manifest, part.there
    lost = [outcome for outcome in part.outcomes if outcome.error is not None]
    counted = tallies.get(technique or ONLY) or next(iter(tallies.values()), NOTHING)
    by_choices: dict[str, Tally] = {}
    if manifest.task == "nafc":
        for number in sorted({outcome.sample.choices for outcome in there}):
            same = [outcome for outcome in there if outcome.sample.choices == number]
            by_choices[str(number)] = _tally(same, technique or ONLY, confidence)
    return Cell(
        task=manifest.task,
        dataset=manifest.dataset,
        skipped=part.skipped,
        questions=len(manifest.samples) if tallies else 0,
        left_out=len(lost),
        reasons=_reasons(lost, manifest.hashes),
        **vars(counted),
        technique=technique or None,
        by_technique={} if list(tallies) == [ONLY] else dict(tallies),
        by_choices=by_choices,
        ranked=_ranked(there) if manifest.task == "ir" and tallies else None,
        answers=part.file,
    )


def _any(tallies: Mapping[str, Tally]) -> bool:
    return any(counted.accuracy is not None for counted in tallies.values())


def _tally(outcomes: Sequence[Outcome], technique: str, confidence: float) -> Tally:
    choices = [outcome.choices[technique] for outcome in outcomes]
    return tally(choices, [outcome.sample.label for outcome in outcomes], confidence)


def _precisions(outcomes: Sequence[Outcome]) -> np.ndarray:
    found = [outcome.precisions for outcome in outcomes if outcome.precisions is not None]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _ranked(outcomes: Sequence[Outcome]) -> Ranked:
    precisions = _precisions(outcomes)
    medium, hard, _ = mean_of_settings(precisions)
    with_positive = np.isfinite(precisions).sum(axis=0)
    return Ranked(medium, hard, int(with_positive[0]), int(with_positive[1]))


def _reasons(outcomes: Sequence[Outcome], names: Mapping[str, str]) -> list[Reason]:
    """Reasons and how often each, without the name of the picture that stands in front."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        name, _, rest = str(outcome.error).partition(": ")
        found.setdefault(rest if name in names else str(outcome.error), []).append(outcome.sample.id)
    most = sorted(found.items(), key=lambda entry: -len(entry[1]))
    return [Reason(reason, len(ids), ids[0]) for reason, ids in most]
