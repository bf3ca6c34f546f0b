"""`python -m eval unisim`: UniSim-Bench, from frozen questions to tables.

One model after another is asked all of its questions together, so that whatever several data sets name is
encoded, or scored, once. Answers are kept as they come: a run that was interrupted goes on, and asks nothing
twice. A model that cannot be loaded costs no other model, and a broken picture no other question.
"""

from __future__ import annotations

import datetime
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from eval.unisim.answers import FOLDER, Answers
from eval.unisim.askers import ASKERS, answered_by
from eval.unisim.cells import Answered, asked, cells
from eval.unisim.config import ModelConfig, UnisimConfig
from eval.unisim.hashes import check_pictures
from eval.unisim.manifest import Manifest
from eval.unisim.parts import Part
from eval.unisim.questions import Found, find_questions
from eval.unisim.record import SCHEMA, VERSION, Model, write
from eval.unisim.samples import Task
from eval.unisim.statistics import between_tasks
from eval.unisim.tables import write_tables
from flow_grpo.log import versions
from reward_plugin.errors import RewardError
from reward_plugin.score.command import INTERRUPTED, SOME_FAILED

#: Pictures whose check takes long enough to be told of.
MANY = 2000
#: Index of a manifest -> picture -> what is wrong with its file.
Broken = Callable[[int], Mapping[str, str]]


def run(config: UnisimConfig) -> int:
    """Ask, count, and write answers, record, tables and page; returns the exit code.

    0: every model answered every question of the tasks that it can do; 3: done, and some were not answered;
    130: interrupted.

    Raises:
        ValueError: there is nothing to ask.
    """
    found = find_questions(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)

    @cache
    def broken(index: int) -> Mapping[str, str]:
        manifest, _, root = found.manifests[index]
        return _looked_at(manifest, root, config.workers)

    try:
        models = [_asked(model, found, broken, config) for model in config.models]
    except KeyboardInterrupt:
        return INTERRUPTED
    record = build(config, found, models)
    write(record, out / "results.json")
    write_tables(record, out)
    return 0 if complete(record) else SOME_FAILED


def build(config: UnisimConfig, found: Found, models: Sequence[Model]) -> dict[str, Any]:
    """Assemble the record."""
    whole = [(model.group, _whole(model)) for model in models]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "title": config.title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": asdict(config),
        "versions": versions(),
        "confidence": config.confidence,
        "manifests": [asdict(asked(manifest, str(file))) for manifest, file, _ in found.manifests],
        "models": [asdict(model) for model in models],
        "tau": [asdict(tau) for tau in between_tasks(whole)],
        "problems": list(found.problems),
    }


def _whole(model: Model) -> dict[Task, float]:
    """Tasks of which a model has a figure that means something beside others'."""
    return {
        task: score.accuracy
        for task, score in model.tasks.items()
        if score.whole and score.accuracy is not None
    }


def complete(record: Mapping[str, Any]) -> bool:
    """Whether every model answered every question of the tasks that it can do."""
    return not record["problems"] and not any(
        model["problem"] or any(cell["left_out"] or cell["unanswered"] for cell in model["datasets"])
        for model in record["models"]
    )


def _looked_at(manifest: Manifest, root: Path, workers: int) -> Mapping[str, str]:
    """What is wrong with the pictures of a manifest; said before minutes of asking."""
    if len(manifest.names) > MANY:
        print(
            f"eval: checking {len(manifest.names)} pictures of {manifest.task}/{manifest.dataset}",
            file=sys.stderr,
        )
    found = check_pictures(manifest, root, threads=workers)
    # without the two hashes, so that one reason is counted once
    problems = {name: reason.partition(": SHA-256")[0] for name, reason in found.items()}
    if problems:
        name, reason = next(iter(problems.items()))
        print(
            f"eval: {manifest.task}/{manifest.dataset}: {len(problems)} of {len(manifest.names)} pictures "
            f"cannot be used, the first ({name}): {reason}",
            file=sys.stderr,
        )
    return problems


def _asked(model: ModelConfig, found: Found, broken: Broken, config: UnisimConfig) -> Model:
    """Ask one model what it has not answered yet."""
    asker = ASKERS[model.kind]
    try:
        identity = asker.identity(model, config)
    except Exception as error:
        reason = _failed(model, error)
        nothing = [Answered(manifest, skipped=reason) for manifest, _, _ in found.manifests]
        return _model(model, f"{model.kind}@unknown", nothing, reason, {}, config)
    with ExitStack() as stack:
        parts = []
        for index, (manifest, _, root) in enumerate(found.manifests):
            path = Path(config.out) / FOLDER / f"{model.name}__{manifest.task}__{manifest.dataset}.jsonl"
            by = f"{answered_by(model, identity)} manifest@{manifest.digest[:12]}"
            answers = stack.enter_context(Answers(path, manifest.samples, by))
            parts.append(Part(manifest, root, answers, partial(broken, index)))
        _say_where(model, parts)
        known, problem = _ask(model, parts, config)
    answered = [
        Answered(
            part.manifest,
            part.answers.outcomes if part.skipped is None else (),
            f"{FOLDER}/{part.answers.path.name}" if part.skipped is None else None,
            part.skipped,
        )
        for part in parts
    ]
    return _model(model, identity, answered, problem, known, config)


def _ask(
    model: ModelConfig, parts: Sequence[Part], config: UnisimConfig
) -> tuple[dict[str, int], str | None]:
    """Have the questions answered; what stopped the model, if something did, is why the rest is skipped."""
    try:
        return ASKERS[model.kind].ask(parts, model, config), None
    except Exception as error:
        problem = _failed(model, error)
        for part in parts:
            if part.todo:
                part.skipped = problem
        return {}, problem
    except KeyboardInterrupt:
        done = sum(len(part.manifest.samples) - len(part.answers.todo) for part in parts)
        total = sum(len(part.manifest.samples) for part in parts)
        print(
            f"\neval: interrupted: {model.name} has answered {done} of {total} questions; answers and "
            f"embeddings are in {config.out}, and the same command goes on from there",
            file=sys.stderr,
        )
        raise


def _model(
    model: ModelConfig,
    identity: str,
    answered: Sequence[Answered],
    problem: str | None,
    known: dict[str, int],
    config: UnisimConfig,
) -> Model:
    found, tasks, averages = cells(answered, config.confidence, config.seed)
    return Model(
        name=model.name,
        kind=model.kind,
        group=model.group,
        identity=identity,
        settings=asdict(model),
        problem=problem,
        datasets=found,
        tasks=tasks,
        averages=averages,
        encoded=known,
    )


def _failed(model: ModelConfig, error: Exception) -> str:
    """Why a model answers nothing more, in one line; said at once, and where nobody foresaw it, in full."""
    problem = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, RewardError | ValueError | OSError):
        traceback.print_exception(error)
        problem = f"{type(error).__name__}: {problem}"
    print(f"eval: {model.name} answers nothing more: {problem}", file=sys.stderr)
    return problem


def _say_where(model: ModelConfig, parts: Sequence[Part]) -> None:
    total = sum(len(part.manifest.samples) for part in parts)
    todo = sum(len(part.todo) for part in parts)
    if todo < total:
        print(f"eval: {model.name}: {total - todo} of {total} questions are answered", file=sys.stderr)
