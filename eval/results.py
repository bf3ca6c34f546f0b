"""The record of a comparison: `results.json`, from which report and gallery are drawn.

Schema `eval.compare`, version 1:

    schema, version, title
    created      UTC, ISO 8601
    settings     the resolved config
    versions     of libraries, and the git commit
    notes        what a reader must know about the run, one sentence each
    models       [{name, path, lora, digest...}], the baseline first
    dimensions   [{name, role: reward | trained | held_out, weight, per: image | prompt}]
    prompts      [{index, text, category, diversity: {model name: number or null}}]
    samples      [{prompt_index, member, prompt, category, change,
                   sides: {model name: {image, scores: {dimension: number or null}, error}}}]
    comparisons  [{baseline, model, confidence, summary: {dimension: eval.metrics.Comparison},
                   categories: {category: {dimension: Comparison}}, verdict: eval.verdict.judge}]

Image paths are relative to the file's folder. A missing score is null and its reason is in `error`; `change`
is the pixel distance within the pair in percent. More models add entries to `models`, `sides` and
`comparisons`; readers must ignore keys they do not know. The version rises when a key changes meaning.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.generate import Item
from eval.metrics import Bootstrap, Comparison, compare
from eval.verdict import REWARD, Targets, judge
from flow_grpo.files import replacing
from flow_grpo.log import versions
from reward_plugin.combine import combine
from reward_plugin.types import ScoreTable

SCHEMA = "eval.compare"
VERSION = 1
DIVERSITY = "diversity"


class NothingScored(Exception):
    """No pair has a reward on both sides, so there is nothing to report."""


@dataclass(frozen=True, eq=False)
class Side:
    """What is known about one model's pictures, in the order of the items.

    Attributes:
        name: `base` or `tuned`.
        model: What the pictures came from, for `models` in the record.
        images: Path of each picture, relative to the record [N].
        scores: Raw scores [N, D].
        diversity: Diversity within each prompt [P], prompts in order of first appearance; NaN where unknown.
    """

    name: str
    model: Mapping[str, Any]
    images: Sequence[str]
    scores: ScoreTable
    diversity: np.ndarray


def build(
    items: Sequence[Item],
    categories: Sequence[str | None],
    base: Side,
    tuned: Side,
    *,
    change: np.ndarray,
    weights: Mapping[str, float],
    targets: Targets,
    bootstrap: Bootstrap,
    title: str,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Assemble the record.

    Args:
        items: What was generated [N], one entry per pair.
        categories: Category of each pair's prompt [N].
        base: The baseline's side.
        tuned: The other side, with the same dimensions.
        change: Pixel distance within each pair [N].
        weights: Weight of each trained dimension in the reward.
        targets: What was asked for.
        bootstrap: How intervals are made.
        title: Heading of the pages.
        settings: The resolved config, for the record.
        notes: What a reader must know besides, see `eval.provenance`.
    """
    columns = {side.name: _columns(side.scores, weights) for side in (base, tuned)}
    summary, by_category = _summaries(items, categories, base, tuned, columns, bootstrap)
    trained = [name for name in base.scores.dimensions if weights.get(name)]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "versions": versions(),
        "notes": list(notes),
        "models": [{"name": side.name, **side.model} for side in (base, tuned)],
        "dimensions": [_dimension(name, weights) for name in summary],
        "prompts": _prompts(items, categories, (base, tuned)),
        "samples": _samples(items, categories, change, (base, tuned), columns),
        "comparisons": [
            {
                "baseline": base.name,
                "model": tuned.name,
                "confidence": bootstrap.confidence,
                "summary": _plain(summary),
                "categories": {name: _plain(part) for name, part in by_category.items()},
                "verdict": judge(summary, trained, targets, bootstrap.confidence),
            }
        ],
    }


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write the record; a number that is not finite is a mistake and refused."""
    with replacing(path) as beside:
        beside.write_text(
            json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
        )


def read(path: Path) -> dict[str, Any]:
    """Read a record back.

    Raises:
        ValueError: The file is missing, no record, or of another version.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run `python -m eval compare` first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no record of a comparison; run `python -m eval compare` to write one")
    if results.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {results.get('version')}, this program reads {VERSION}; compare again"
        )
    return results


def _columns(scores: ScoreTable, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The weighted reward, then every dimension: trained ones first."""
    names = sorted(scores.dimensions, key=lambda name: not weights.get(name))
    reward = combine(scores, weights).reward
    return {REWARD: reward, **{name: scores.column(name) for name in names}}


def _summaries(
    items: Sequence[Item],
    categories: Sequence[str | None],
    base: Side,
    tuned: Side,
    columns: Mapping[str, Mapping[str, np.ndarray]],
    bootstrap: Bootstrap,
) -> tuple[dict[str, Comparison], dict[str, dict[str, Comparison]]]:
    """Each dimension compared over all pairs, with diversity, and over the pairs of each category."""
    before, after = columns[base.name], columns[tuned.name]
    prompts = np.array([item.index for item in items])

    def summarise(rows: np.ndarray | slice) -> dict[str, Comparison]:
        return {
            name: compare(before[name][rows], after[name][rows], prompts[rows], bootstrap) for name in before
        }

    summary = summarise(slice(None))
    if np.isfinite(base.diversity).any():
        order = np.arange(len(base.diversity))
        summary[DIVERSITY] = compare(base.diversity, tuned.diversity, order, bootstrap)
    names = sorted({name for name in categories if name})
    return summary, {name: summarise(np.array([kind == name for kind in categories])) for name in names}


def _plain(summary: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    return {name: result.to_dict() for name, result in summary.items()}


def _dimension(name: str, weights: Mapping[str, float]) -> dict[str, Any]:
    role = "reward" if name == REWARD else "trained" if weights.get(name) else "held_out"
    weight = weights[name] if role == "trained" else None
    return {"name": name, "role": role, "weight": weight, "per": "prompt" if name == DIVERSITY else "image"}


def _prompts(
    items: Sequence[Item], categories: Sequence[str | None], sides: Sequence[Side]
) -> list[dict[str, Any]]:
    first = {item.index: row for row, item in reversed(list(enumerate(items)))}
    order = dict.fromkeys(item.index for item in items)
    return [
        {
            "index": index,
            "text": items[first[index]].prompt,
            "category": categories[first[index]],
            "diversity": {side.name: _number(side.diversity[row]) for side in sides},
        }
        for row, index in enumerate(order)
    ]


def _samples(
    items: Sequence[Item],
    categories: Sequence[str | None],
    change: np.ndarray,
    sides: Sequence[Side],
    columns: Mapping[str, Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    return [
        {
            "prompt_index": item.index,
            "member": item.member,
            "prompt": item.prompt,
            "category": categories[i],
            "change": _number(change[i]),
            "sides": {
                side.name: {
                    "image": side.images[i],
                    "scores": {name: _number(column[i]) for name, column in columns[side.name].items()},
                    "error": side.scores.errors[i],
                }
                for side in sides
            },
        }
        for i, item in enumerate(items)
    ]


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
