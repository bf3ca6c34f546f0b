"""The record of answered questions: `results.json`, from which tables and page are drawn.

Schema `eval.vqa`, version 1:

    schema, version, title, created, settings, versions, answered_by, confidence
    sets     [{domain, data, images, sha256, rows, published_rows, asked, fields, keys, notes, problem,
               unusable: [{where, image, reason}], missing: [{image, reason, count}]}]
    groups   [{kind: overall | domain | category | criterion | template, domain, name, n, correct, wrong,
               unread, missing, accuracy, interval, published_reading, chance, published: {model: percent}}]
    mean_of_domains  accuracy, each domain counting the same, as the paper averages
    unread   [{image, question, response, problem}]: every answer in which no letter could be read

`n` counts answered questions: correct + wrong + unread. `accuracy` is correct / n, so what could not be read
counts as wrong. `missing` are questions that could not be asked, as of a picture that is not there; they are
in no accuracy. `published_reading` is the accuracy when the first character counts, whatever follows, as the
published script does it; null where no text was written. `chance` is what guessing gives. Shares are 0 to 1.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.proportion import wilson
from eval.vqa_config import VqaBenchmarkConfig
from eval.vqa_data import Question, QuestionData
from eval.vqa_sets import PUBLISHED, published
from flow_grpo.log import versions
from reward_plugin.score.rows import Row

SCHEMA, VERSION = "eval.vqa", 1
KINDS = ("domain", "category", "criterion", "template")


@dataclass(frozen=True)
class Answered:
    """A question and its row."""

    question: Question
    row: Row

    @property
    def missing(self) -> bool:
        """Whether it could not be asked."""
        return bool(self.row["error"])

    @property
    def unread(self) -> bool:
        """Whether it was answered, without a letter."""
        return not self.missing and self.row.get("letter") is None

    @property
    def correct(self) -> bool:
        """Whether the letter is the right one."""
        return self.row.get("letter") == self.question.answer


def build(
    config: VqaBenchmarkConfig, sets: Sequence[QuestionData], answered: Sequence[Sequence[Answered]]
) -> dict[str, Any]:
    """Assemble the record; `answered` has one sequence for each set."""
    every = [one for part in answered for one in part]
    groups = list(_groups(every, config.confidence))
    domains = [group["accuracy"] for group in groups if group["kind"] == "domain" and group["n"]]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": config.title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": asdict(config),
        "versions": versions(),
        "answered_by": every[0].row["scored_by"] if every else None,
        "confidence": config.confidence,
        "sets": [_set(data, part) for data, part in zip(sets, answered, strict=True)],
        "groups": groups,
        "mean_of_domains": sum(domains) / len(domains) if domains else None,
        "unread": [
            {
                "image": one.question.image,
                "question": one.question.text,
                "response": one.row.get("response"),
                "problem": one.row.get("problem"),
            }
            for one in every
            if one.unread
        ],
    }


def complete(results: Mapping[str, Any]) -> bool:
    """Whether every entry was asked and every answer could be read."""
    return not results["unread"] and not any(
        part["problem"] or part["unusable"] or part["missing"] for part in results["sets"]
    )


def tally(answered: Sequence[Answered], confidence: float) -> dict[str, Any]:
    """Counts, accuracy and interval of some questions, as in a group of the record."""
    there = [one for one in answered if not one.missing]
    n, correct = len(there), sum(one.correct for one in there)
    unread = sum(one.unread for one in there)
    written = [one for one in there if "published" in one.row]
    first = sum(one.row["published"] == one.question.answer for one in written)
    interval = wilson(correct, n, confidence)
    return {
        "n": n,
        "correct": correct,
        "wrong": n - correct - unread,
        "unread": unread,
        "missing": len(answered) - n,
        "accuracy": correct / n if n else None,
        "interval": None if interval is None else list(interval),
        "published_reading": first / n if n and len(written) == n else None,
        "chance": sum(1 / one.question.choices for one in there) / n if n else None,
    }


def _groups(answered: Sequence[Answered], confidence: float) -> Iterator[dict[str, Any]]:
    yield {"kind": "overall", "domain": None, "name": "all", **tally(answered, confidence), "published": {}}
    for kind in KINDS:
        parts: dict[tuple[str, str], list[Answered]] = {}
        for one in answered:
            name = one.question.about.get(kind)
            if name is not None:
                parts.setdefault((one.question.about["domain"], name), []).append(one)
        for (domain, name), part in parts.items():
            figures = published(domain, "overall" if kind == "domain" else kind, name)
            counts = tally(part, confidence)
            yield {"kind": kind, "domain": domain, "name": name, **counts, "published": dict(figures)}


def _set(data: QuestionData, answered: Sequence[Answered]) -> dict[str, Any]:
    missing: dict[tuple[str, str], int] = {}
    for one in answered:
        if one.missing:
            reason = str(one.row["error"]).removeprefix(f"{one.row['image']}: ")
            key = (one.question.image, reason)
            missing[key] = missing.get(key, 0) + 1
    return {
        "domain": data.domain,
        "data": data.place.data,
        "images": data.place.images,
        "sha256": data.sha256,
        "rows": data.rows,
        "published_rows": PUBLISHED[data.domain].questions if data.domain in PUBLISHED else None,
        "asked": len(data.questions),
        "fields": dict(data.fields),
        "keys": list(data.keys),
        "notes": list(data.notes),
        "problem": data.problem,
        "unusable": [asdict(entry) for entry in data.unusable],
        "missing": [{"image": image, "reason": why, "count": n} for (image, why), n in missing.items()],
    }
