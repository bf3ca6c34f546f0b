"""What was answered, question by question, in files that grow while a model answers.

`answers/MODEL__TASK__DATASET.jsonl` has one object a line:

    {"image": FIRST PICTURE, "id": ID, "label": INDEX | null, "choice": INDEX | null, "values": [NUMBER],
     "medium": NUMBER | null, "hard": NUMBER | null, "text": TEXT, "error": TEXT | null, "scored_by": TEXT}

`values` is what the choice was made by. Where there are several techniques, `choice` and `values` are objects
with one entry for each. `medium` and `hard` are there for rankings, `text` for generative models. A question
with an error was not asked, and is asked again by the next run; nothing else is asked twice, as long as the
model and the manifest (both are in `scored_by`) stay the same. Where one of them has changed, the file goes
to `answers/other/`, and comes back when they do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.unisim.samples import Sample
from eval.unisim.tasks import ONLY, Outcome
from reward_plugin.score.output import JsonlFile

FOLDER = "answers"


class Answers:
    """The answers of one model to one manifest; a context manager that closes its file.

    Attributes:
        path: Of the file.
    """

    def __init__(self, path: Path, samples: Sequence[Sample], scored_by: str) -> None:
        """Read what is there, without rows that have an error.

        Raises:
            ConfigError: the file is no file of rows, or another run has it open.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._samples = {sample.id: sample for sample in samples}
        self._scored_by = scored_by
        self._outcomes: dict[str, Outcome] = {}
        self._file = _opened(path, scored_by)
        self._file.start(())
        kept = []
        for row in self._file.rows:
            sample = self._samples.get(row.get("id", ""))
            if sample is not None and row["scored_by"] == scored_by and row.get("error") is None:
                self._outcomes[sample.id] = _outcome(row, sample)
                kept.append(row)
        if len(kept) < len(self._file.rows):
            self._file.keep(kept)
            self._file.start(())

    def give(self, outcomes: Sequence[Outcome]) -> None:
        """Add answers; when this returns they survive the end of this process."""
        self._file.append([_row(outcome, self._scored_by) for outcome in outcomes])
        self._outcomes |= {outcome.sample.id: outcome for outcome in outcomes}

    @property
    def todo(self) -> list[Sample]:
        """Questions that are still to be asked, in order."""
        return [sample for name, sample in self._samples.items() if name not in self._outcomes]

    @property
    def outcomes(self) -> list[Outcome]:
        """All there are, in the order of the manifest."""
        return [self._outcomes[name] for name in self._samples if name in self._outcomes]

    def close(self) -> None:
        """Put the file on the disk; one without a row does not stay."""
        self._file.close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _opened(path: Path, scored_by: str) -> JsonlFile:
    """The file with this model's answers to this manifest; what else is there is set aside, not lost."""
    file = JsonlFile(path)
    same = all(row["scored_by"] == scored_by for row in file.rows)
    if same and (file.rows or not _aside(path, scored_by).is_file()):
        return file
    file.close()
    if file.rows:
        other = _aside(path, file.rows[0]["scored_by"])
        other.parent.mkdir(exist_ok=True)
        path.rename(other)
    if _aside(path, scored_by).is_file():
        _aside(path, scored_by).rename(path)
    return JsonlFile(path)


def _aside(path: Path, scored_by: str) -> Path:
    digest = hashlib.sha256(scored_by.encode()).hexdigest()[:12]
    return path.parent / "other" / f"{path.stem}__{digest}{path.suffix}"


def _row(outcome: Outcome, scored_by: str) -> dict[str, Any]:
    sample = outcome.sample
    row: dict[str, Any] = {"image": sample.images[0], "id": sample.id, "label": sample.label}
    if outcome.choices:
        row["choice"] = _plain(outcome.choices)
    if outcome.values:
        row["values"] = _plain({name: values.tolist() for name, values in outcome.values.items()})
    if outcome.precisions is not None:
        both = [None if math.isnan(value) else value for value in outcome.precisions]
        row |= {"medium": both[0], "hard": both[1]}
    if outcome.text is not None:
        row["text"] = outcome.text
    return row | {"error": outcome.error, "scored_by": scored_by}


def _outcome(row: Mapping[str, Any], sample: Sample) -> Outcome:
    precisions = (_number(row["medium"]), _number(row["hard"])) if "medium" in row else None
    return Outcome(
        sample,
        _named(row["choice"]) if "choice" in row else {},
        {name: np.asarray(values) for name, values in _named(row.get("values") or {}).items()},
        precisions,
        None,
        row.get("text"),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(found: Mapping[str, Any]) -> Any:
    """The one entry itself where there is only one technique."""
    return found[ONLY] if found.keys() == {ONLY} else dict(found)


def _named(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {ONLY: found}
