"""From pictures and scores to the record of a comparison, see `eval.results`."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.alarms import CLIP_DISTANCE, DIVERSITY, NEUTRAL, PIXEL_DISTANCE, REWARD, VELOCITY
from eval.generate import Item
from eval.metrics import Bootstrap, Comparison, compare, describe
from eval.results import SCHEMA, VERSION
from eval.verdict import Targets, judge
from flow_grpo.log import versions
from reward_plugin.combine import combine
from reward_plugin.types import ScoreTable

#: Measured once for each prompt, not for each picture.
PER_PROMPT = (DIVERSITY, VELOCITY)
_DISTANCES = {"pixels": PIXEL_DISTANCE, "clip": CLIP_DISTANCE}


@dataclass(frozen=True, eq=False)
class Side:
    """What is known about one model's pictures, in the order of the items.

    Attributes:
        name: Of the model.
        model: What the pictures came from, for `models` in the record.
        images: Path of each picture, relative to the record [N].
        scores: Raw scores [N, D].
        distance: Kind (pixels, clip) -> distance from the reference within each pair [N]; NaN where unknown.
        per_prompt: diversity, velocity_norm -> value of each prompt [P], prompts in order of first
            appearance; NaN where it was not measured.
    """

    name: str
    model: Mapping[str, Any]
    images: Sequence[str]
    scores: ScoreTable
    distance: Mapping[str, np.ndarray]
    per_prompt: Mapping[str, np.ndarray] = field(default_factory=dict)


def build(
    items: Sequence[Item],
    categories: Sequence[str | None],
    sides: Sequence[Side],
    *,
    weights: Mapping[str, float],
    targets: Targets,
    bootstrap: Bootstrap,
    title: str,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    problems: Sequence[Mapping[str, str]] = (),
    published: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Assemble the record.

    Args:
        items: What was generated [N], one entry per pair.
        categories: Category of each pair's prompt [N].
        sides: At least two, with the same dimensions; the reference first.
        weights: Weight of each trained dimension in the reward.
        targets: What was asked for.
        bootstrap: How intervals are made.
        title: Heading of the pages.
        settings: The resolved config, for the record.
        notes: What a reader must know besides, see `eval.provenance`.
        problems: What was left out before anything was scored; missing scores are added here.
        published: Figures to print beside these.
    """
    columns = {side.name: _columns(side, weights) for side in sides}
    base, *others = sides
    comparisons = [
        _comparison(items, categories, base, other, columns, weights, targets, bootstrap) for other in others
    ]
    names = dict.fromkeys(name for comparison in comparisons for name in comparison["summary"])
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "versions": versions(),
        "notes": list(notes),
        "problems": [*map(dict, problems), *_missing_scores(items, sides)],
        "models": [
            {"name": side.name, **side.model, "distribution": _distribution(side, columns[side.name])}
            for side in sides
        ],
        "dimensions": [_dimension(name, weights) for name in names],
        "prompts": _prompts(items, categories, sides),
        "samples": _samples(items, categories, sides, columns),
        "comparisons": comparisons,
        "published": None if published is None else dict(published),
    }


def _columns(side: Side, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The weighted reward, then every dimension: trained ones first."""
    names = sorted(side.scores.dimensions, key=lambda name: not weights.get(name))
    reward = combine(side.scores, weights).reward
    return {REWARD: reward, **{name: side.scores.column(name) for name in names}}


def _comparison(
    items: Sequence[Item],
    categories: Sequence[str | None],
    base: Side,
    tuned: Side,
    columns: Mapping[str, Mapping[str, np.ndarray]],
    weights: Mapping[str, float],
    targets: Targets,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """One model against the reference: over all pairs, over those of each category, and the verdict."""
    before = {**columns[base.name], **_distances(base)}
    after = {**columns[tuned.name], **_distances(tuned)}
    prompts = np.array([item.index for item in items])

    def summarise(rows: np.ndarray) -> dict[str, Comparison]:
        return {n: compare(before[n][rows], after[n][rows], prompts[rows], bootstrap) for n in after}

    summary = summarise(np.ones(len(items), dtype=bool))
    for name in PER_PROMPT:
        reference, value = base.per_prompt.get(name), tuned.per_prompt.get(name)
        if reference is not None and value is not None and np.isfinite(value).any():
            measured = np.isfinite(reference)  # what is not measured on purpose is not missing
            order = np.arange(len(reference))[measured]
            summary[name] = compare(reference[measured], value[measured], order, bootstrap)
    kinds = sorted({name for name in categories if name})
    by_category = {kind: summarise(np.array([name == kind for name in categories])) for kind in kinds}
    trained = [name for name in base.scores.dimensions if weights.get(name)]
    watched = [n for n in base.scores.dimensions if n not in trained and n not in NEUTRAL]
    return {
        "baseline": base.name,
        "model": tuned.name,
        "confidence": bootstrap.confidence,
        "summary": _plain(summary),
        "categories": {name: _plain(part) for name, part in by_category.items()},
        "verdict": judge(summary, trained, targets, bootstrap.confidence, watched),
    }


def _distances(side: Side) -> dict[str, np.ndarray]:
    return {_DISTANCES[kind]: values for kind, values in side.distance.items()}


def _plain(summary: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    return {name: result.to_dict() for name, result in summary.items()}


def _distribution(side: Side, columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    measured = {**columns, **_distances(side)}
    known = {name: values for name, values in side.per_prompt.items() if np.isfinite(values).any()}
    return {name: describe(values) for name, values in measured.items()} | {
        name: describe(values[np.isfinite(values)]) for name, values in known.items()
    }


def _dimension(name: str, weights: Mapping[str, float]) -> dict[str, Any]:
    if name in _DISTANCES.values():
        return {"name": name, "role": "distance", "weight": None, "per": "pair"}
    role = "reward" if name == REWARD else "trained" if weights.get(name) else "held_out"
    weight = weights[name] if role == "trained" else None
    return {"name": name, "role": role, "weight": weight, "per": "prompt" if name in PER_PROMPT else "image"}


def _missing_scores(items: Sequence[Item], sides: Sequence[Side]) -> list[dict[str, str]]:
    return [
        {"kind": "score", "where": f"{item.prompt} (member {item.member}), {side.name}", "reason": error}
        for side in sides
        for item, error in zip(items, side.scores.errors, strict=True)
        if error
    ]


def _prompts(
    items: Sequence[Item], categories: Sequence[str | None], sides: Sequence[Side]
) -> list[dict[str, Any]]:
    first = {item.index: row for row, item in reversed(list(enumerate(items)))}
    order = dict.fromkeys(item.index for item in items)
    unknown = np.full(len(order), math.nan)
    return [
        {
            "index": index,
            "text": items[first[index]].prompt,
            "category": categories[first[index]],
            **{
                name: {side.name: number(side.per_prompt.get(name, unknown)[row]) for side in sides}
                for name in PER_PROMPT
            },
        }
        for row, index in enumerate(order)
    ]


def _samples(
    items: Sequence[Item],
    categories: Sequence[str | None],
    sides: Sequence[Side],
    columns: Mapping[str, Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    unknown = np.full(len(items), math.nan)
    return [
        {
            "prompt_index": item.index,
            "member": item.member,
            "prompt": item.prompt,
            "category": categories[i],
            "sides": {
                side.name: {
                    "image": side.images[i],
                    "scores": {name: number(column[i]) for name, column in columns[side.name].items()},
                    "error": side.scores.errors[i],
                    "distance": {kind: number(side.distance.get(kind, unknown)[i]) for kind in _DISTANCES},
                }
                for side in sides
            },
        }
        for i, item in enumerate(items)
    ]


def number(value: float) -> float | None:
    """For JSON: four decimals, null for what is not finite."""
    return round(float(value), 4) if math.isfinite(value) else None
