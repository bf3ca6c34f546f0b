"""The rules between keys of a configuration, checked before anything expensive.

Each error names the key, its value, the rule and the remedy.
"""

from __future__ import annotations

from operator import attrgetter

from reward_plugin.errors import ConfigError
from reward_plugin.unisim.train.config import LAYERS, TASKS, TrainConfig

POSITIVE = (
    "steps",
    *("model.lora.rank", "model.lora.alpha"),
    *("data.batch", "data.workers", "data.prefetch"),
    *("optimizer.lr", "optimizer.eps", "optimizer.grad_clip", "optimizer.micro_batch"),
    *("validation.every", "validation.batch", "validation.max_questions"),
    *("checkpoint.every", "checkpoint.keep"),
)
NOT_NEGATIVE = ("loss.margin", "optimizer.min_lr", "optimizer.warmup", "optimizer.weight_decay")
BELOW_ONE = ("model.lora.dropout", "optimizer.beta1", "optimizer.beta2")


def check(config: TrainConfig) -> None:
    """The rules between keys.

    Raises:
        ConfigError: naming the key, its value, the rule and the remedy.
    """
    for key in POSITIVE:
        value = attrgetter(key)(config)
        _require(value is None or value > 0, key, value, "must be greater than 0")
    for key in NOT_NEGATIVE:
        value = attrgetter(key)(config)
        _require(value >= 0, key, value, "must not be negative")
    for key in BELOW_ONE:
        value = attrgetter(key)(config)
        _require(0 <= value < 1, key, value, "must be at least 0 and less than 1")
    optimizer = config.optimizer
    _require(
        optimizer.min_lr <= optimizer.lr,
        "optimizer.min_lr",
        optimizer.min_lr,
        f"must not be above optimizer.lr, {optimizer.lr:g}; lower it",
    )
    unknown = [name for name in config.model.lora.targets if name not in LAYERS]
    _require(
        bool(config.model.lora.targets) and not unknown,
        "model.lora.targets",
        list(config.model.lora.targets),
        f"must be some of {', '.join(LAYERS)}",
    )
    _require(
        bool(config.data.train.by_task()),
        "data.train",
        "without a data set",
        f"must have one for some of the tasks; list {{manifest, root}} under {', '.join(TASKS)}",
    )


def check_processes(config: TrainConfig, processes: int) -> None:
    """A step's questions must be shared out evenly.

    Raises:
        ConfigError: they cannot be.
    """
    batch = config.data.batch
    _require(
        batch % processes == 0,
        "data.batch",
        batch,
        f"must be a multiple of the processes, {processes}; give {max(1, batch // processes) * processes}",
    )


def _require(right: bool, key: str, value: object, rule: str) -> None:
    if not right:
        raise ConfigError(f"{key} is {value}: it {rule}.")
