"""The record of a comparison: `results.json`, from which report and gallery are drawn.

Schema `eval.compare`, version 2 (`eval/results.schema.json` is the same as JSON Schema):

    schema, version, title
    created      UTC, ISO 8601
    settings     the resolved config
    versions     of libraries, and the git commit
    notes        what a reader must know about the run, one sentence each
    problems     [{kind: prompt | picture | score, where, reason}], all that was left out of a mean
    models       [{name, path, lora, lora_sha256, run, step, seed,
                   distribution: {dimension: eval.metrics.describe}}], the reference first
    dimensions   [{name, role: reward | trained | held_out | distance, weight, per: image | pair | prompt}]
    prompts      [{index, text, category, diversity, velocity_norm: {model name: number or null}}]
    samples      [{prompt_index, member, prompt, category,
                   sides: {model name: {image, scores: {dimension: number or null}, error,
                                        distance: {pixels, clip: number or null}}}}]
    comparisons  [{baseline, model, confidence, summary: {dimension: eval.metrics.Comparison},
                   categories: {category: {dimension: Comparison}}, verdict: eval.verdict.judge}]
    published    figures to print beside these, see `eval.published`; null without

Image paths are relative to the file's folder. A missing score is null and its reason is in `error`; distances
are from the reference, within the pair. There is one comparison for each model but the reference, in the
order of `models`; the last is what the headline is about. Readers must ignore keys they do not know. The
version rises when a key changes meaning; version 1, which had two models, is read and brought up to this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics import describe
from flow_grpo.files import replacing

SCHEMA = "eval.compare"
VERSION = 2


class NothingScored(Exception):
    """No pair has a reward on both sides, so there is nothing to report."""


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write the record; a number that is not finite is a mistake and refused."""
    with replacing(path) as beside:
        beside.write_text(
            json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
        )


def read(path: Path) -> dict[str, Any]:
    """Read a record back.

    Raises:
        ValueError: The file is missing, no record, or of a version that is not read.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run `python -m eval compare` first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no record of a comparison; run `python -m eval compare` to write one")
    if results.get("version") == 1:
        return _from_version_1(results)
    if results.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {results.get('version')}, this program reads {VERSION} and 1; compare again"
        )
    return results


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison that the headline is about: that of the last model."""
    comparison: dict[str, Any] = results["comparisons"][-1]
    return comparison


def _from_version_1(old: Mapping[str, Any]) -> dict[str, Any]:
    """A record of two models as one of the present version; what was not measured then is null."""
    names = [model["name"] for model in old["models"]]
    samples = []
    for sample in old["samples"]:
        sides = {
            name: {
                **side,
                "distance": {"pixels": sample["change"] if name == names[1] else 0.0, "clip": None},
            }
            for name, side in sample["sides"].items()
        }
        samples.append({**{k: v for k, v in sample.items() if k != "change"}, "sides": sides})
    models = []
    for model in old["models"]:
        scores = [sample["sides"][model["name"]]["scores"] for sample in samples]
        columns = {name: [row[name] for row in scores] for name in scores[0]}
        columns["pixel_distance"] = [
            sample["sides"][model["name"]]["distance"]["pixels"] for sample in samples
        ]
        known = [prompt["diversity"][model["name"]] for prompt in old["prompts"]]
        columns["diversity"] = [value for value in known if value is not None]
        spread = {
            name: describe(np.array(values, dtype=np.float64)) for name, values in columns.items() if values
        }
        blank = {"lora_sha256": None, "run": None, "step": None, "seed": None}
        models.append({**blank, **model, "distribution": spread})
    problems = [
        {"kind": "score", "where": f"{sample['prompt']} ({name})", "reason": side["error"]}
        for sample in samples
        for name, side in sample["sides"].items()
        if side["error"]
    ]
    prompts = [{**prompt, "velocity_norm": dict.fromkeys(names)} for prompt in old["prompts"]]
    new = {"version": VERSION, "models": models, "samples": samples, "prompts": prompts, "problems": problems}
    return {"notes": [], **old, **new, "published": None}
