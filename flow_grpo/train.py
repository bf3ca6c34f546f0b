"""The training loop.

    accelerate launch -m flow_grpo.train --config configs/pocket.yaml [--any.key value] [--dry-run] [--resume
    auto]

One iteration: sample a group of pictures for each prompt and have them scored, turn scores into advantages,
and take `optimizer.updates_per_rollout` optimizer steps on the stochastic steps of the trajectories.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flow_grpo.advantage import Advantages, advantages
from flow_grpo.algorithms import ALGORITHMS
from flow_grpo.config import TrainConfig
from flow_grpo.constraint import Held, held_by, relative_drop, respond, weighed
from flow_grpo.distributed import agreed, gather, stop_together
from flow_grpo.examples import Examples, noised, transitions
from flow_grpo.log import RunLog
from flow_grpo.noise import seed_of
from flow_grpo.order import prompts_of_iteration, shard
from flow_grpo.pace import pace_of
from flow_grpo.prompts import Prompt
from flow_grpo.replay import leaving_replay
from flow_grpo.rollout import Item, Plan, Rollout, Scores, rollout, training_seed
from flow_grpo.run import Run
from flow_grpo.sampler import training_plan
from flow_grpo.selection import deal
from flow_grpo.speed import phases
from flow_grpo.validate import validate
from flow_grpo.weighting import statistics
from reward_plugin.types import Rewards

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(run: Run, rewards: Rewards, log: RunLog, accelerator: Accelerator) -> None:
    """Iterate until `config.iterations` or until validation says stop.

    Raises:
        ScoringFailed, StopRequested: On every process; `run` is that of the last completed iteration.
    """
    config, began = run.config, run.iteration
    while True:
        stop_together()
        if due(run.iteration, config.validation.every, config) and run.validated != run.iteration:
            evaluate(run, rewards, log, accelerator)
        finished = run.iteration >= config.iterations or run.keeper.should_stop(config.stop)
        if run.iteration > began and (finished or due(run.iteration, config.checkpoint.every, config)):
            run.save(accelerator)
        if finished:
            break
        iterate(run, rewards, log, accelerator)
    if run.keeper.should_stop(config.stop):
        log.say(
            f"stopped at iteration {run.iteration}: {', '.join(run.keeper.broken)} was below its bound for "
            f"{run.keeper.breaches} validations; the weights of iteration {run.keeper.best_step} are kept."
        )
    if accelerator.is_main_process:
        log.say(f"LoRA of iteration {run.keeper.best_step if run.best else run.iteration}: {run.export()}")


def iterate(run: Run, rewards: Rewards, log: RunLog, accelerator: Accelerator) -> None:
    """One iteration: pictures and their scores, advantages, updates, and what is logged of them.

    Raises:
        ScoringFailed, StopRequested: On every process, before the weights have changed.
    """
    config, rules = run.config, run.config.reward.constraints
    start = time.perf_counter()
    with leaving_replay(run, accelerator):
        made = sample_iteration(run, rewards, accelerator)
        held = hold_constraints(run, made, rewards, accelerator)
    scores, groups = share_scores(run, made, accelerator)
    scores.require_a_reward()
    values, weights = weighed(
        scores.values,
        scores.dimensions,
        scores.weighted,
        scores.weights,
        held_by(rules, held.weights, "reward"),
    )
    gains = advantages(
        torch.from_numpy(values), torch.from_numpy(weights), torch.from_numpy(groups), config.advantage
    )
    stop_together()  # the last time that dropping the iteration loses nothing but time
    updating = time.perf_counter()
    with run.completing_iteration(), leaving_replay(run, accelerator):
        metrics = run.updater.run(
            examples_of(run, made, gains, accelerator),
            made.condition,
            kl_factor=1 + sum(held_by(rules, held.weights, "kl").values()),
        )
        run.multipliers = dict(held.multipliers)
    now = time.perf_counter()
    if gains.missing:
        log.say(f"{gains.missing} of {len(groups)} pictures have no reward; the first: {scores.reason()}")
    log.iteration(
        metrics_row(
            run.iteration,
            scores,
            gains,
            {**reward_metrics(run, scores, groups), **held.metrics, **metrics},
            phases(made.seconds, now - updating, now - start, held.metrics.get("seconds/base", 0.0)),
        )
    )
    if due(run.iteration, config.log.samples_every, config):
        log.samples(run.iteration, made.images[: config.log.samples], min(8, config.prompts.group_size))


def hold_constraints(run: Run, made: Rollout, rewards: Rewards, accelerator: Accelerator) -> Held:
    """What the constraints weigh, by how far this iteration's pictures are below the base's."""
    rules = run.config.reward.constraints
    if not rules:
        return Held()
    start = time.perf_counter()
    members = max(rule.base_members for rule in rules.values())
    base = sample_iteration(run, rewards, accelerator, base_members=members)
    kept = [row for row, item in enumerate(made.items) if item.member < members]
    columns = [base.scores.dimensions.index(name) for name in rules]
    paired = np.stack([made.scores.values[kept][:, columns], base.scores.values[:, columns]], axis=-1)
    pairs = np.concatenate(gather([paired]))  # [pictures of all processes, constraints, 2]
    drops = {name: relative_drop(pairs[:, column]) for column, name in enumerate(rules)}
    held = respond(rules, run.multipliers, drops)
    return replace(held, metrics={**held.metrics, "seconds/base": round(time.perf_counter() - start, 4)})


def sample_iteration(
    run: Run, rewards: Rewards, accelerator: Accelerator, base_members: int | None = None
) -> Rollout:
    """This process's share of the iteration's groups, sampled and scored.

    With `base_members` only so many members of each group, from the same noise, by the base model.
    """
    config = run.config
    sampler, size = config.sampler, base_members or config.prompts.group_size
    prompts = own_prompts(run, accelerator)
    items = [Item(row, member) for row in range(len(prompts)) for member in range(size)]
    algorithm = ALGORITHMS[config.algorithm].Config
    if algorithm.needs_trajectory:
        plan = training_plan(sampler, config.seed, run.iteration, keep_mean=algorithm.needs_old_mean)
    else:
        plan = Plan(num_steps=sampler.num_steps, chunk=sampler.chunk, shared_noise=sampler.shared_noise)
    identity = training_seed(config.seed, run.iteration)
    weights, pace = config.reward.weights_at(run.iteration), pace_of(accelerator)
    given = (run.policy, prompts, items, plan, identity, rewards, weights, pace)
    with run.policy.reference() if base_members else run.updater.sampling_weights():
        return agreed(lambda: rollout(*given), pace)


def own_prompts(run: Run, accelerator: Accelerator) -> list[Prompt]:
    """The prompts of this process in the iteration that comes next."""
    count = run.config.prompts.per_iteration
    positions = prompts_of_iteration(run.iteration, len(run.prompts), count, run.config.seed)
    mine = shard(count, accelerator.process_index, accelerator.num_processes)
    return [run.prompts[positions[group]] for group in mine]


def share_scores(run: Run, made: Rollout, accelerator: Accelerator) -> tuple[Scores, np.ndarray]:
    """Scores of all processes, and each picture's prompt index, in the order of one process."""
    own = made.scores
    config = run.config
    positions = prompts_of_iteration(
        run.iteration, len(run.prompts), config.prompts.per_iteration, config.seed
    )
    groups = np.repeat([run.prompts[position].index for position in positions], config.prompts.group_size)
    if accelerator.num_processes == 1:
        return own, groups
    return Scores.joined(gather([own])), groups


def examples_of(run: Run, made: Rollout, gains: Advantages, accelerator: Accelerator) -> Examples:
    """This process's training examples; each update gets an equal share of every group's members."""
    config, device = run.config, run.policy.device
    mine = gains.values.view(accelerator.num_processes, -1)[accelerator.process_index]
    updates, size = config.optimizer.updates_per_rollout, config.prompts.group_size
    share = torch.tensor([item.member * updates // size for item in made.items], device=device)
    if config.advantage.selects:
        kept = config.advantage.keep_best + config.advantage.keep_worst
        share = deal(mine.view(-1, size), updates, kept).flatten().to(device)
    sigmas, rows = run.policy.sigmas(config.sampler.num_steps), [item.row for item in made.items]
    assigned = torch.tensor(rows, device=device), share, mine.to(device)
    if ALGORITHMS[config.algorithm].Config.needs_trajectory:
        return transitions(made.trajectory, sigmas, *assigned)
    prompts = own_prompts(run, accelerator)
    identities = [
        (prompts[item.row].index, *(() if config.nft.shared_noise else (item.member,))) for item in made.items
    ]
    seeds = [seed_of(config.seed, "forward", run.iteration, *identity) for identity in identities]
    count = config.nft.count(config.sampler.num_steps)
    return noised(made.trajectory.final, sigmas, *assigned, seeds=seeds, count=count)


def evaluate(run: Run, rewards: Rewards, log: RunLog, accelerator: Accelerator) -> None:
    """Validate the averaged weights, and keep them if they are the best so far."""
    if not run.held_out:
        return
    with run.ema.applied(run.policy.trainable):
        found = validate(run.policy, run.held_out, run.config, rewards, accelerator)
    if run.keeper.update(run.iteration, found, run.config.stop):
        run.remember_best()
    run.validated = run.iteration
    log.validation({"step": run.iteration, **found.means, "best_step": run.keeper.best_step})


def due(iteration: int, every: int, config: TrainConfig) -> bool:
    """Every so many iterations, and after the last; 0: never."""
    return every > 0 and (iteration % every == 0 or iteration == config.iterations)


def reward_metrics(run: Run, scores: Scores, groups: np.ndarray) -> dict[str, float]:
    """Weights of the iteration just completed and what each dimension did; see `flow_grpo.weighting`."""
    reward = run.config.reward
    weights = reward.weights_at(run.iteration - 1)  # counted from 0, as when it was sampled
    return {
        **{f"weight/{name}": weights[name] for name in scores.dimensions if name in reward.rewarded()},
        **statistics(scores.values, scores.dimensions, scores.reward, groups),
    }


def metrics_row(
    step: int, scores: Scores, gains: Advantages, metrics: Mapping[str, float], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """One line of metrics.jsonl: weighted dimensions as reward/<name>, the others by their name."""
    means = scores.means()
    # By name and not by the weights of this iteration, of which a ramp may make one 0.
    return {
        "step": step,
        **{f"reward/{name}" if f"weight/{name}" in metrics else name: value for name, value in means.items()},
        "group_std": gains.group_std,
        "dead_groups": gains.dead_groups,
        "missing": gains.missing,
        **metrics,
        **{f"seconds/{name}" if name else "seconds": round(value, 4) for name, value in seconds.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command, see `flow_grpo.launch`; returns the exit code."""
    from flow_grpo.launch import main as command

    return command(arguments)


if __name__ == "__main__":
    sys.exit(main())
