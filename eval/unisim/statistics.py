"""From single answers to tables: shares and their intervals, means of means, agreement of tasks. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from eval.proportion import wilson
from eval.unisim.record import AVERAGES, Average, Tally, TaskScore, Tau
from eval.unisim.retrieval import mean_of_settings, resampled
from eval.unisim.samples import TASKS, Task

#: A value and its interval, as far as there are any.
Figure = tuple[float | None, tuple[float, float] | None]


def tally(choices: Sequence[int | None], labels: Sequence[int | None], confidence: float) -> Tally:
    """Count answers; None is one that names no choice, and counts as wrong.

    Args:
        choices: What was chosen of each question that was asked.
        labels: What is right.
        confidence: Coverage of the interval.
    """
    answered = sum(choice is not None for choice in choices)
    right = sum(c is not None and c == label for c, label in zip(choices, labels, strict=True))
    return Tally(
        answered=answered,
        right=right,
        unanswered=len(choices) - answered,
        accuracy=right / len(choices) if choices else None,
        interval=wilson(right, len(choices), confidence),
    )


def tally_ranked(precisions: np.ndarray, confidence: float, seed: int = 0) -> Tally:
    """Count rankings: `accuracy` is the mean of both mAP.

    Args:
        precisions: Average precision of each query that was asked, medium and hard [Q, 2], NaN where a
            setting has no positive.
        confidence: Coverage of the interval.
        seed: Of the queries that are resampled.
    """
    both = mean_of_settings(precisions)[2]
    return Tally(len(precisions), 0, 0, both, resampled(precisions, confidence, seed=seed))


def mean(parts: Sequence[Figure]) -> Figure:
    """Mean of independent figures and its interval.

    The interval is the method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27,
    2008): the distances from the figures to their lower limits add up as deviations do, and so do those to
    the upper ones. Unlike a normal approximation it keeps the lopsidedness of Wilson's intervals near 0 and
    1.

    Returns:
        None for the mean where a figure is missing or there is none, and for the interval where one is.
    """
    values = [value for value, _ in parts if value is not None]
    if not parts or len(values) < len(parts):
        return None, None
    centre = sum(values) / len(values)
    intervals = [interval for _, interval in parts if interval is not None]
    if len(intervals) < len(parts):
        return centre, None
    below = math.hypot(*(value - low for value, (low, _) in zip(values, intervals, strict=True)))
    above = math.hypot(*(high - value for value, (_, high) in zip(values, intervals, strict=True)))
    return centre, (centre - below / len(values), centre + above / len(values))


def best_technique(parts: Sequence[Mapping[str, Tally]]) -> tuple[str | None, dict[str, float]]:
    """The technique that is best on the mean of a task's data sets, as the paper reports it, and all means.

    Args:
        parts: Technique -> counts, of each data set; only techniques that all of them have are compared.

    Returns:
        The first of the best; None where there is nothing to choose from.
    """
    names = [name for name in (parts[0] if parts else {}) if all(name in part for part in parts)]
    means: dict[str, float] = {}
    for name in names:
        value = mean([(part[name].accuracy, None) for part in parts])[0]
        if value is not None:
            means[name] = value
    return (max(means, key=lambda name: means[name]) if means else None), means


def average(tasks: Mapping[Task, TaskScore], which: str) -> Average:
    """One of `AVERAGES` over the tasks of a model; one that is not whole, or not in `tasks`, is missing."""
    wanted = AVERAGES[which]
    there = [task for task in wanted if task in tasks and tasks[task].whole]
    missing = [task for task in wanted if task not in there]
    if missing:
        return Average(None, None, there, missing)
    accuracy, interval = mean([(tasks[task].accuracy, tasks[task].interval) for task in there])
    return Average(accuracy, interval, there, [])


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, float | None, str | None]:
    """Kendall's tau-b and its two-sided p-value.

    Returns:
        Both, or None and why they are undefined.
    """
    if len(first) < 2:
        return None, None, f"{len(first)} models have both; an order needs two"
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None, None, "all models are equal in one of the tasks"
    from scipy.stats import kendalltau

    found = kendalltau(first, second, variant="b")
    return float(found.statistic), float(found.pvalue), None


def between_tasks(
    models: Sequence[tuple[str | None, Mapping[Task, float]]], tasks: Sequence[Task] = TASKS
) -> list[Tau]:
    """Agreement of every two tasks about the order of models: of all, and of each group.

    Args:
        models: Group, and task -> accuracy, of each model.
        tasks: Those to compare; pairs of which no model has both are left out.
    """
    groups = [None, *dict.fromkeys(group for group, _ in models if group is not None)]
    found = []
    for group in groups:
        inside = [scores for own, scores in models if group in (None, own)]
        for first, second in combinations(tasks, 2):
            both = [
                (scores[first], scores[second]) for scores in inside if first in scores and second in scores
            ]
            if both:
                tau, p_value, undefined = kendall(*(list(column) for column in zip(*both, strict=True)))
                found.append(Tau(group, first, second, tau, p_value, len(both), undefined))
    return found
