"""What an ablation found: one record, one CSV and one Markdown table, intervals over the seeds.

Schema `eval.ablate`, version 2, in results.json:

    schema, version, title, created, versions, settings, confidence
    runs      [{name, variants: {axis: variant}, seed, overrides, weights: {dimension: weight},
                state: done | failed | open, reason, seconds: {train, evaluate}, iterations, kept_iteration,
                alarms: [dimension],
                summary: {dimension: {base_mean, tuned_mean, difference, relative}},
                curves: {dimension: {steps, values}}, of the validations while training}]
    variants  [{name, variants, seeds, dimensions: {dimension: {difference: Estimate, relative: Estimate}},
                curves: {dimension: {steps, mean}}, of the seeds that got so far}]

A run that is not done has no figures, and its variant fewer seeds: nothing is filled in. Estimate is {mean,
low, high, n}: the mean over seeds and Student's interval of it, which is null with one seed.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eval.ablate_config import AblateConfig, Run
from eval.ablate_runs import results_of, state_of
from eval.alarms import REWARD
from eval.curves import kept_iteration, read_curves, read_jsonl
from flow_grpo.files import replacing
from flow_grpo.log import versions

SCHEMA, VERSION = "eval.ablate", 2
MEASURES = ("base_mean", "tuned_mean", "difference", "relative")


def collect(config: AblateConfig, runs: Sequence[Run], failures: Mapping[str, str]) -> dict[str, Any]:
    """The record of all runs as they are now.

    Args:
        config: The ablation.
        runs: All of its runs.
        failures: Run's name -> why it failed.
    """
    rows = [describe(config, run, failures.get(run.name)) for run in runs]
    combinations = dict.fromkeys(run.combination for run in runs)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": config.title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "settings": asdict(config),
        "confidence": config.confidence,
        "runs": rows,
        "variants": [
            summarise([row for row in rows if row["combination"] == name], config.confidence)
            for name in combinations
        ],
    }


def describe(config: AblateConfig, run: Run, failure: str | None) -> dict[str, Any]:
    """What is known about one run."""
    state = state_of(run)
    overrides: dict[str, Any] = {}
    for axis, variant in run.variants.items():
        overrides |= config.axes[axis][variant]
    row: dict[str, Any] = {
        "name": run.name,
        "combination": run.combination,
        "variants": dict(run.variants),
        "seed": run.seed,
        "overrides": overrides,
        "weights": dict(run.train["reward"]["weights"]),
        "state": "done" if state.done else "failed" if failure else "open",
        "reason": None if state.done else failure,
        "seconds": dict(state.seconds),
        "iterations": None,
        "kept_iteration": None,
        "alarms": [],
        "summary": {},
        "curves": {},
    }
    if state.done:
        comparison = results_of(run)["comparisons"][0]
        trained = read_jsonl(run.folder / "train" / "metrics.jsonl")
        row["iterations"] = trained[-1]["step"] if trained else None
        row["kept_iteration"] = kept_iteration(run.folder / "train")
        row["alarms"] = [a["dimension"] for a in comparison["verdict"].get("alarms", []) if a["rings"]]
        row["summary"] = {
            name: {measure: result[measure] for measure in MEASURES}
            for name, result in comparison["summary"].items()
        }
        found = read_curves(run.folder / "train", list(row["summary"]))
        row["curves"] = {one.name: asdict(one.validation) for one in found if one.validation}
    return row


def summarise(rows: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    """One combination over its finished seeds."""
    done = [row for row in rows if row["state"] == "done"]
    names = dict.fromkeys(name for row in done for name in row["summary"])
    return {
        "name": rows[0]["combination"],
        "variants": rows[0]["variants"],
        "seeds": [row["seed"] for row in done],
        "dimensions": {
            name: {
                measure: estimate([row["summary"].get(name, {}).get(measure) for row in done], confidence)
                for measure in ("difference", "relative")
            }
            for name in names
        },
        "curves": {name: mean_curve([row["curves"].get(name) for row in done]) for name in names},
    }


def mean_curve(found: Sequence[Mapping[str, Sequence[float]] | None]) -> dict[str, list[float]]:
    """Mean over runs at each step that any of them has, {steps, mean}."""
    at: dict[float, list[float]] = {}
    for one in found:
        for step, value in zip(one["steps"], one["values"], strict=True) if one else ():
            at.setdefault(step, []).append(value)
    return {"steps": sorted(at), "mean": [float(np.mean(at[step])) for step in sorted(at)]}


def estimate(values: Sequence[float | None], confidence: float) -> dict[str, float | int | None]:
    """Mean and Student's t interval of it; missing values are left out, and n says how many are not."""
    from scipy.special import stdtrit

    known = np.array([value for value in values if value is not None], dtype=np.float64)
    n = len(known)
    mean = float(known.mean()) if n else None
    if n < 2 or mean is None:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = float(stdtrit(n - 1, 0.5 + 0.5 * confidence)) * float(known.std(ddof=1)) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def write(results: Mapping[str, Any], out: Path) -> None:
    """results.json, runs.csv, table.md and index.html."""
    from eval.ablate_page import write_page

    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "runs.csv": as_csv(results),
        "table.md": as_markdown(results),
    }
    for name, text in texts.items():
        with replacing(out / name) as path:
            path.write_text(text, encoding="utf-8")
    write_page(results, out)


def as_csv(results: Mapping[str, Any]) -> str:
    """One line for each run; what is not known is empty."""
    dimensions = dict.fromkeys(name for row in results["runs"] for name in row["summary"])
    axes = list(results["settings"]["axes"])
    head = ["name", *axes, "seed", "state", "iterations", "kept_iteration", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, *(f"{name}/{measure}" for name in dimensions for measure in MEASURES)])
    for row in results["runs"]:
        seconds = sum(row["seconds"].values()) if row["seconds"] else None
        values = [row["name"], *(row["variants"][axis] for axis in axes), row["seed"], row["state"]]
        values += [row["iterations"], row["kept_iteration"], seconds]
        values += [row["summary"].get(n, {}).get(measure) for n in dimensions for measure in MEASURES]
        writer.writerow(values)
    return text.getvalue()


def as_markdown(results: Mapping[str, Any]) -> str:
    """A table for every combination of all axes but the last, whose variants are its rows."""
    columns, percent = results["settings"]["columns"], f"{100 * results['confidence']:g} %"
    reference = results["settings"]["reference"]
    lines = [
        f"# {results['title']}",
        "",
        f"Change from base to tuned, mean over seeds ({percent} interval).",
        "",
    ]
    for name, by_name in groups_of(results).items():
        head = ["variant", "seeds", "reward, points", *(["of reference"] if reference else [])]
        head += [f"{column}, %" for column in columns]
        lines += [f"## {name}", ""] if name else []
        lines += [_row(head), _row(["---"] * len(head))]
        for short, variant in by_name.items():
            cells = [short, str(len(variant["seeds"])), interval_cell(variant, REWARD, "difference", 1.0)]
            if reference:
                cells.append(share_cell(results, variant, by_name.get(reference)))
            cells += [interval_cell(variant, column, "relative", 100.0) for column in columns]
            lines.append(_row(cells))
        lines.append("")
    open_runs = [row for row in results["runs"] if row["state"] != "done"]
    if open_runs:
        lines += [f"{len(open_runs)} of {len(results['runs'])} runs are not in these figures:", ""]
        lines += [f"* {row['name']}: {(row['reason'] or 'not run yet').splitlines()[0]}" for row in open_runs]
        lines.append("")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def groups_of(results: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Combination of all axes but the last -> variant of the last -> its entry in the record."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for variant in results["variants"]:
        name, _, short = variant["name"].rpartition("/")
        groups.setdefault(name, {})[short] = variant
    return groups


def share_cell(
    results: Mapping[str, Any], variant: Mapping[str, Any], reference: Mapping[str, Any] | None
) -> str:
    """A variant's reward gain in percent of the reference's, over the seeds that both have; else empty."""
    if reference is None:
        return ""
    gains = {
        (row["combination"], row["seed"]): row["summary"][REWARD]["difference"]
        for row in results["runs"]
        if row["summary"].get(REWARD, {}).get("difference") is not None
    }
    pairs = [
        (gains[variant["name"], seed], gains[reference["name"], seed])
        for seed in variant["seeds"]
        if (variant["name"], seed) in gains and (reference["name"], seed) in gains
    ]
    own, theirs = (sum(side) for side in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return f"{100 * own / theirs:.0f} %" if theirs > 0 else ""


def interval_cell(variant: Mapping[str, Any], dimension: str, measure: str, scale: float) -> str:
    """Mean and interval of a measure as text; empty where it is not known."""
    found = variant["dimensions"].get(dimension, {}).get(measure)
    if found is None or found["mean"] is None:
        return ""
    mean = f"{scale * found['mean']:+.1f}"
    if found["low"] is None:
        return mean
    return f"{mean} ({scale * found['low']:+.1f} to {scale * found['high']:+.1f})"
