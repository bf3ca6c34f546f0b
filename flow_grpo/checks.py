"""The rules between keys of a configuration, checked before anything expensive.

Each error names the key, its value, the rule and the remedy.
"""

from __future__ import annotations

import math
from operator import attrgetter

from flow_grpo.algorithms import ALGORITHMS
from flow_grpo.config import TrainConfig
from flow_grpo.policy.lora import check_init
from flow_grpo.sampler import check_sampler

POSITIVE = (
    "iterations",
    *("model.height", "model.width", "model.max_sequence_length", "model.lora.rank", "model.lora.alpha"),
    "prompts.per_iteration",
    *("sampler.num_steps", "sampler.chunk"),
    *("reward.timeout", "reward.max_outage", "reward.batch_size"),
    *("advantage.clip", "advantage.eps", "advantage.scale"),
    *("grpo.clip_range", "guard.clip_range"),
    *("nft.beta", "nft.advantage_range", "nft.sigmas_per_image"),
    *("optimizer.updates_per_rollout", "optimizer.micro_batch"),
    *("optimizer.lr", "optimizer.eps", "optimizer.grad_clip"),
    *("validation.every", "validation.num_steps", "validation.members", "validation.max_prompts"),
    *("checkpoint.every", "checkpoint.keep"),
    "log.samples",
)
NOT_NEGATIVE = (
    "model.guidance_scale",
    "model.gradient_checkpointing",
    *("reward.ready_timeout", "advantage.tie", "advantage.keep_best", "advantage.keep_worst"),
    *("regularizer.kl_weight", "regularizer.norm_weight", "regularizer.norm_margin"),
    *("nft.old_flat", "nft.old_rate"),
    *("optimizer.warmup", "optimizer.weight_decay"),
    *("stop.max_relative_drop", "stop.patience"),
    "log.samples_every",
)


def check(config: TrainConfig) -> None:
    """The rules between keys.

    Raises:
        ValueError: Naming the key, its value, the rule and the remedy.
    """
    for key in POSITIVE:
        value = attrgetter(key)(config)
        _require(value in (None, "auto") or value > 0, key, value, "must be greater than 0")
    for key in NOT_NEGATIVE:
        value = attrgetter(key)(config)
        _require(value >= 0, key, value, "must not be negative")
    check_init(config.model.lora.init)
    _check_groups(config)
    _check_algorithm(config)
    _check_reward(config)
    _check_constraints(config)
    _check_optimizer(config)
    _check_held_out(config)


def check_processes(config: TrainConfig, processes: int) -> None:
    """Rules that depend on how many processes run: whole groups are dealt out evenly.

    Raises:
        ValueError: prompts.per_iteration cannot be shared evenly.
    """
    _require(
        config.prompts.per_iteration % processes == 0,
        "prompts.per_iteration",
        config.prompts.per_iteration,
        f"must be a multiple of the {processes} processes, which take whole groups each",
    )


def check_prompts(config: TrainConfig, available: int) -> None:
    """One iteration must not need the same prompt twice.

    Raises:
        ValueError: The prompt file is too short.
    """
    _require(
        config.prompts.per_iteration <= available,
        "prompts.per_iteration",
        config.prompts.per_iteration,
        f"is more than the {available} prompts in {config.prompts.train}; lower it or add prompts",
    )


def _check_groups(config: TrainConfig) -> None:
    size, updates = config.prompts.group_size, config.optimizer.updates_per_rollout
    _require(
        size >= 2,
        "prompts.group_size",
        size,
        "must be at least 2, because pictures of a prompt are compared with each other",
    )
    _require(
        size % updates == 0,
        "prompts.group_size",
        size,
        f"must be a multiple of optimizer.updates_per_rollout = {updates}, so that each update has as many "
        f"members of every group",
    )
    kept = config.advantage.keep_best + config.advantage.keep_worst
    _require(
        kept <= size and kept % updates == 0,
        "advantage.keep_best",
        config.advantage.keep_best,
        f"and advantage.keep_worst = {config.advantage.keep_worst} must together be at most "
        f"prompts.group_size = {size} and a multiple of optimizer.updates_per_rollout = {updates}",
    )


def _check_algorithm(config: TrainConfig) -> None:
    sampler, level, kl = config.sampler, config.sampler.noise_level, config.regularizer.kl
    if ALGORITHMS[config.algorithm].Config.needs_trajectory:
        _require(level > 0, "sampler.noise_level", level, "must be greater than 0")
        check_sampler(sampler, config.algorithm, ALGORITHMS[config.algorithm].Config.kinds)
        return
    _require(
        level == 0 and not sampler.steps,
        "sampler.noise_level",
        level,
        f"must be 0 with algorithm {config.algorithm}, which samples by the ODE, and sampler.steps empty",
    )
    _require(
        not sampler.shared_noise,
        "sampler.shared_noise",
        True,
        f"must be false with algorithm {config.algorithm}: without stochastic steps a group would be one "
        f"picture",
    )
    _require(
        kl == "velocity" or config.regularizer.kl_weight == 0,
        "regularizer.kl",
        kl,
        f"must be velocity with algorithm {config.algorithm}, which has no transitions to compare",
    )
    count, limit = config.nft.sigmas_per_image, config.nft.old_limit
    _require(
        count is None or count <= sampler.num_steps,
        "nft.sigmas_per_image",
        count,
        f"must be at most sampler.num_steps = {sampler.num_steps}, from whose grid they are drawn",
    )
    _require(0 <= limit < 1, "nft.old_limit", limit, "must be at least 0 and below 1")


def _check_reward(config: TrainConfig) -> None:
    reward = config.reward
    _require(
        bool(reward.weights) and any(reward.weights.values()),
        "reward.weights",
        reward.weights,
        "must give at least one dimension a weight other than 0",
    )
    _require(
        (reward.url is None) != (reward.scorers is None),
        "reward.url",
        reward.url,
        "and reward.scorers: give exactly one, a server's address or scorers to run in process",
    )
    for name, ramp in reward.ramps.items():
        _require(
            0 <= ramp.begin < ramp.end and math.isfinite(ramp.start),
            f"reward.ramps.{name}",
            ramp,
            "must have a finite start and 0 <= begin < end, in iterations",
        )
    ramped = range(config.iterations if reward.ramps else 0)
    silent = [iteration for iteration in ramped if not any(reward.weights_at(iteration).values())]
    _require(
        not silent,
        "reward.ramps",
        reward.ramps,
        f"leaves nothing to reward in iterations {silent[:3]}; start one dimension above 0",
    )
    _require(
        config.stop.metric not in reward.rewarded(),
        "stop.metric",
        config.stop.metric,
        "must be a held-out dimension, but it has a weight in reward.weights; remove one of the two",
    )


def _check_constraints(config: TrainConfig) -> None:
    for name, rule in config.reward.constraints.items():
        key, size = f"reward.constraints.{name}", config.prompts.group_size
        held_out = name not in config.reward.rewarded()
        _require(held_out, key, rule, "is for a held-out dimension; remove its weight or its ramp")
        _require(
            0 < rule.max_relative_drop < 1
            and rule.rate > 0
            and 0 <= rule.start <= rule.max_weight < math.inf
            and (rule.max_rise is None or rule.max_rise > 0)
            and 0 <= rule.proportional < math.inf,
            key,
            rule,
            "must have max_relative_drop between 0 and 1, rate and max_rise above 0, start from 0 to "
            "max_weight, and proportional at least 0",
        )
        _require(
            rule.held_by == "reward" or config.regularizer.kl_weight > 0,
            f"{key}.held_by",
            rule.held_by,
            "multiplies regularizer.kl_weight, which is 0: set that, or held_by: reward",
        )
        _require(
            1 <= rule.base_members <= size,
            f"{key}.base_members",
            rule.base_members,
            f"must be from 1 to prompts.group_size = {size}",
        )


def _check_optimizer(config: TrainConfig) -> None:
    optimizer = config.optimizer
    for key, decays in {"ema_decay": [optimizer.ema_decay], "betas": optimizer.betas}.items():
        _require(
            all(0 <= decay < 1 for decay in decays),
            f"optimizer.{key}",
            getattr(optimizer, key),
            "must be at least 0 and below 1",
        )


def _check_held_out(config: TrainConfig) -> None:
    prompts, stop = config.prompts, config.stop
    _require(
        prompts.held_back >= 0 and (prompts.held_back == 0 or prompts.validation is None),
        "prompts.held_back",
        prompts.held_back,
        "must not be negative, and is only for runs without prompts.validation; use one of the two",
    )
    _require(
        not (stop.floors or stop.all_bounds()) or prompts.validation is not None or prompts.held_back > 0,
        "stop.metric",
        stop.metric,
        "is measured on held-out prompts; set prompts.validation or prompts.held_back, or this to null",
    )
    for key, limits in {"stop.floors": stop.floors, "stop.bounds": stop.bounds}.items():
        for name, drop in limits.items():
            _require(drop >= 0, f"{key}.{name}", drop, "must not be negative")
    _require(
        stop.confidence is None or 0.5 <= stop.confidence < 1,
        "stop.confidence",
        stop.confidence,
        "must be null, or from 0.5 to below 1, such as 0.95",
    )


def _require(condition: bool, key: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"{key} is {value!r}: it {rule}.")
