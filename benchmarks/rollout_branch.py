"""Sampling time of a rollout with `sampler.branch` over that without, on the same prompts, noise and window.

    python -m benchmarks.rollout_branch [--config configs/pocket.yaml] [--starts 1 2 3] [--pairs 8]

Both ways sample the same pictures in turns, and each pair's first turn alternates, so whatever else the
machine does falls on both. Decoding and scoring are left out. Time is the process's own processor time on a
CPU, which other processes hardly lengthen, and the wall clock's, with the device synchronized, on a GPU.
Prints a markdown table: per start of the window the share of transformer evaluations that is left, the ratio
of times (geometric mean over the pairs), and its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow_grpo.chunks import Item, Sampler
from flow_grpo.cli import parse
from flow_grpo.config import TrainConfig
from flow_grpo.policy import build_policy
from flow_grpo.policy.base import Policy
from flow_grpo.prompts import Prompt, read_prompts
from flow_grpo.rollout import training_seed
from flow_grpo.sampler import training_plan
from flow_grpo.window import WindowConfig


def measure(
    policy: Policy, prompts: Sequence[Prompt], config: TrainConfig, starts: Sequence[int], pairs: int
) -> dict[str, Any]:
    """Ratios of sampling time, branched over whole, for windows of one step from each start.

    Args:
        policy: The model.
        prompts: One group each.
        config: Its sampler, group size and seed are used.
        starts: First stochastic steps.
        pairs: Turns of both ways, after one that is not counted.
    """
    steps, members = config.sampler.num_steps, config.prompts.group_size
    rows = []
    for start in starts:
        seconds = [
            {branch: _seconds(policy, prompts, config, start, branch) for branch in order}
            for order in ([True, False], *([[False, True], [True, False]] * pairs)[:pairs])
        ][1:]
        ratios = [pair[True] / pair[False] for pair in seconds]
        rows.append(
            {
                "start": start,
                "evaluations": (start + members * (steps - start)) / (members * steps),
                "ratio": geometric_mean(ratios),
                "interval": interval(ratios),
                "seconds": [[pair[False], pair[True]] for pair in seconds],
            }
        )
    setting = {"prompts": len(prompts), "members": members, "num_steps": steps, "chunk": config.sampler.chunk}
    return {"model": config.model.path, "pairs": pairs, **setting, "torch": torch.__version__, "rows": rows}


def geometric_mean(ratios: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def interval(ratios: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the geometric mean; the seed is fixed."""
    drawn = np.random.default_rng(0).choice(np.log(ratios), (resamples, len(ratios)))
    low, high = np.quantile(np.exp(drawn.mean(axis=1)), (0.025, 0.975))
    return float(low), float(high)


def table(result: dict[str, Any]) -> str:
    """The result as markdown."""
    lines = [
        f"{result['prompts']} prompts x {result['members']} members, {result['num_steps']} steps, chunks of "
        f"{result['chunk']}, {result['pairs']} pairs, {result['model']}, torch {result['torch']}",
        "",
        "| window from step | evaluations left | sampling time, branched over whole | 95 % interval |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['start']} | {row['evaluations']:.3f} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def _seconds(
    policy: Policy, prompts: Sequence[Prompt], config: TrainConfig, start: int, branch: bool
) -> float:
    window = WindowConfig("fixed", size=1, start=start)
    sampling = replace(config.sampler, window=window, steps={}, shared_noise=True, branch=branch)
    plan = training_plan(sampling, config.seed, 0)
    items = [Item(row, member) for row in range(len(prompts)) for member in range(config.prompts.group_size)]
    condition = policy.encode([prompt.text for prompt in prompts])
    sampler = Sampler(policy, prompts, condition, plan, training_seed(config.seed, 0))
    began = _now(policy.device)
    sampler.run_prefix()
    for first in range(0, len(items), plan.chunk):
        sampler.run(items[first : first + plan.chunk])
    return _now(policy.device) - began


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time a rollout with and without sampler.branch.")
    parser.add_argument("--config", default="configs/pocket.yaml", help="a training configuration")
    parser.add_argument("--starts", type=int, nargs="+", default=[1, 2, 3], help="first steps of windows")
    parser.add_argument("--pairs", type=int, default=8, help="turns of both ways")
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    options = parser.parse_args(arguments)
    config = parse(["--config", options.config]).config
    prompts = read_prompts(config.prompts.train)[: config.prompts.per_iteration]
    policy = build_policy(config.model, "cuda" if torch.cuda.is_available() else "cpu")
    result = measure(policy, prompts, config, options.starts, options.pairs)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
