"""Models on held-out prompts: generate all sides from the same noise, score them, draw the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.alarms import DIVERSITY, REWARD, VELOCITY
from eval.config import CompareConfig
from eval.contenders import Contender, find_contenders
from eval.gallery import write_gallery
from eval.generate import Item, Models, generate, lora_identity, model_identity
from eval.pictures import Look, clip_embedder, look, prompt_diversities
from eval.processes import Processes
from eval.provenance import notes
from eval.published import read_published
from eval.record import Side, build
from eval.report import write_report
from eval.results import NothingScored, headline, write
from eval.scores import BATCH, Kept, score, scorer_identity
from eval.tables import write_csv
from eval.velocity import measure, probed
from flow_grpo.policy.flux import check_model_path
from flow_grpo.prompts import Prompt, read_prompts
from reward_plugin.client import build_rewards
from reward_plugin.combine import combine
from reward_plugin.types import Rewards, ScoreTable


@dataclass(frozen=True, eq=False)
class Task:
    """What every stage of a comparison needs.

    Attributes:
        config: Of the comparison.
        processes: With whom it is shared.
        contenders: The models, the reference first.
        prompts: The prompts.
        items: Pictures wanted of each model [N].
        device: Of this process.
        dtype: Of the models.
    """

    config: CompareConfig
    processes: Processes
    contenders: Sequence[Contender]
    prompts: Sequence[Prompt]
    items: Sequence[Item]
    device: str
    dtype: str

    def files(self, contender: Contender) -> list[Path]:
        """Where a model's pictures are [N]."""
        return [self.folder(contender) / item.file for item in self.items]

    def folder(self, contender: Contender) -> Path:
        """Of a model's pictures."""
        return Path(self.config.out) / "gallery" / "images" / contender.name

    def identity(self, contender: Contender) -> dict[str, Any]:
        """Names the weights, see `eval.generate.generate`."""
        lora = lora_identity(contender.lora) if contender.lora else {}
        return {**model_identity(contender.path), "dtype": self.dtype, **lora}


def run(config: CompareConfig) -> dict[str, Any]:
    """The whole comparison; everything it writes lies below `config.out`.

    Returns:
        The record, see `eval.results`; on other processes than the first an empty one.

    Raises:
        ValueError: A file or setting is unusable; named with its remedy. Cheap checks come before slow work.
        reward_plugin.errors.RewardError: Scores could not be had; pictures and the scores so far stay for the
            next attempt.
        NothingScored: Every reward is missing.
    """
    problems: list[dict[str, str]] = []
    prompts = _prompts(config, problems)
    published = read_published(config.published) if config.published else None
    for path in {config.model, *(spec.path for spec in config.specs() if spec.path)}:
        check_model_path(path)
    processes = Processes()
    if processes.first:
        find_contenders(config.specs(), config.model, Path(config.out))  # writes checkpoints as LoRA files
    processes.wait()
    contenders = find_contenders(config.specs(), config.model, Path(config.out), export=False)
    items = [Item(p.text, p.index, member) for p in prompts for member in range(config.members)]
    task = Task(config, processes, contenders, prompts, items, *_resolve(config, processes))
    with build_rewards(config.reward.source()) as rewards:
        rewards.wait_ready(config.reward.ready_timeout)
        check_weights(rewards.dimensions, config.reward.weights)
        velocity = _generate(task)
        identity = scorer_identity(config.reward, rewards)
        with Kept(Path(config.out) / "scores", processes.rank, identity, rewards.dimensions) as kept:
            scores = [_score(task, rewards, kept, contender) for contender in contenders]
    sides = _sides(task, scores, velocity, problems)
    if not processes.first:
        return {}
    results = _record(task, sides, problems, published)
    write(results, Path(config.out) / "results.json")
    if not headline(results)["summary"][REWARD]["n"]:
        reason = next(error for table in scores for error in table.errors if error)
        raise NothingScored(f"no pair has a reward on both sides; the first reason is: {reason}")
    write_pages(results, Path(config.out))
    return results


def write_pages(results: Mapping[str, Any], out: Path) -> None:
    """Draw report, tables and gallery from a record."""
    write_gallery(results, out)
    write_csv(results, out)
    runs = [results["settings"].get("run_dir"), *(model.get("run") for model in reversed(results["models"]))]
    run_dir = next((name for name in runs if name), None)
    write_report(results, out, Path(run_dir) if run_dir else None)


def check_weights(dimensions: Sequence[str], weights: Mapping[str, float]) -> None:
    """Refuse weights that do not fit the scorers, before anything slow.

    Raises:
        ValueError: An unknown dimension, or no weight other than zero.
    """
    combine(ScoreTable(tuple(dimensions), np.empty((0, len(dimensions)), np.float32), ()), weights)


def _prompts(config: CompareConfig, problems: list[dict[str, str]]) -> list[Prompt]:
    """The prompts that can be read; what cannot is noted, and its place in the file stays empty."""
    broken: list[str] = []
    prompts = read_prompts(
        config.prompts, config.allow_duplicates, format=config.prompt_format, broken=broken
    )
    problems += [{"kind": "prompt", "where": config.prompts, "reason": reason} for reason in broken]
    return prompts[: config.max_prompts]


def _generate(task: Task) -> list[list[float] | None]:
    """Make all pictures; returns each model's velocity ratios of the probed prompts, none without a LoRA."""
    config, models = task.config, Models(task.dtype, task.device)
    reference, *others = task.contenders
    for contender in task.contenders:
        sampling = config.sampling
        if contender.seed is not None:
            sampling = replace(sampling, seed=contender.seed)
        generate(
            partial(models, contender.path, contender.lora),
            task.items,
            task.folder(contender),
            sampling=sampling,
            identity=task.identity(contender),
            batch_size=config.batch_size,
            label=f"generate {contender.name}",
            processes=task.processes,
        )
    if not config.probe.prompts or reference.lora is not None:
        return [None for _ in task.contenders]  # the ratio is to the model without a LoRA
    chosen = [task.items[row * config.members] for row in probed(len(task.prompts), config.probe.prompts)]
    ratios: list[list[float] | None] = [[1.0] * len(chosen)]
    for contender in others:
        if contender.lora is None or contender.path != reference.path:
            ratios.append([1.0] * len(chosen) if contender.path == reference.path else None)
            continue
        own = measure(
            partial(models, contender.path, contender.lora),
            task.processes.share(chosen),
            task.folder(contender) / f"velocity-{task.processes.rank}.json",
            sampling=config.sampling,
            identity=task.identity(contender),
            batch_size=config.batch_size,
        )
        ratios.append(task.processes.collect(own, len(chosen)))
    return ratios


def _score(task: Task, rewards: Rewards, kept: Kept, contender: Contender) -> ScoreTable:
    """Scores of all pictures of a model [N, D], shared among the processes."""
    items, files = task.processes.share(task.items), task.processes.share(task.files(contender))
    own = score(rewards, items, files, contender.name, kept, quiet=not task.processes.first)
    rows = task.processes.collect(list(zip(own.values, own.errors, strict=True)), len(task.items))
    values, errors = zip(*rows, strict=True)
    return ScoreTable(own.dimensions, np.stack(values), tuple(errors))


def _sides(
    task: Task,
    scores: Sequence[ScoreTable],
    velocity: Sequence[list[float] | None],
    problems: list[dict[str, str]],
) -> list[Side]:
    """Everything that is known of each model; pictures that cannot be read are noted."""
    reference = task.files(task.contenders[0])
    embed = clip_embedder(task.config.distance_clip, task.device) if task.config.distance_clip else None
    share, count = task.processes.share, len(task.items)
    sides, embeddings = [], np.empty(0)
    for contender, table, ratios in zip(task.contenders, scores, velocity, strict=True):
        files = task.files(contender)
        own = [look(*pair) for pair in zip(share(reference), share(files), strict=True)]
        looks: list[Look] = task.processes.collect(own, count)
        distance = {"pixels": np.array([seen.pixels for seen in looks])}
        if embed is not None:
            batches = [share(files)[i : i + BATCH] for i in range(0, len(share(files)), BATCH)]
            parts = [row for batch in batches for row in embed(batch)]
            rows = np.stack(task.processes.collect(parts, count))
            embeddings = rows if contender is task.contenders[0] else embeddings
            distance["clip"] = np.maximum(0.0, 100.0 * (1.0 - (embeddings * rows).sum(axis=1)))
        problems += [
            {
                "kind": "picture",
                "where": f"{item.prompt} (member {item.member}), {contender.name}",
                "reason": why,
            }
            for item, why in zip(task.items, [seen.problem for seen in looks], strict=True)
            if why
        ]
        measured = {DIVERSITY: prompt_diversities(task.items, [seen.small for seen in looks])}
        if ratios is not None:
            measured[VELOCITY] = np.full(len(task.prompts), np.nan)
            measured[VELOCITY][probed(len(task.prompts), task.config.probe.prompts)] = ratios
        images = [file.relative_to(task.config.out).as_posix() for file in files]
        sides.append(Side(contender.name, contender.record(), images, table, distance, measured))
    return sides


def _record(
    task: Task,
    sides: Sequence[Side],
    problems: Sequence[Mapping[str, str]],
    published: Mapping[str, Any] | None,
) -> dict[str, Any]:
    config = task.config
    category = {prompt.index: prompt.category for prompt in task.prompts}
    last_run = next((c.run for c in reversed(task.contenders) if c.run), config.run_dir)
    return build(
        task.items,
        [category[item.index] for item in task.items],
        sides,
        weights=config.reward.weights,
        targets=config.targets,
        bootstrap=config.bootstrap,
        title=config.title,
        settings=asdict(config),
        notes=notes(Path(last_run) if last_run else None, config.reward.weights, task.prompts),
        problems=problems,
        published=published,
    )


def _resolve(config: CompareConfig, processes: Processes) -> tuple[str, str]:
    """Device and dtype in place of `auto`."""
    device = processes.device if config.device == "auto" else config.device
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    return device, dtype
