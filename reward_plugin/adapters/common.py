"""What every adapter does: find what scores, settle the weights, and insist on scores that are there."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from reward_plugin.client import build_rewards
from reward_plugin.combine import Combined, check_weights, combine
from reward_plugin.errors import ConfigError, MissingScore
from reward_plugin.types import ImageLike, Rewards, ScoreTable

#: A client or local scorers; the address of a server; or the keys of `reward_plugin.client.RewardsConfig`.
Source: TypeAlias = "Rewards | str | Mapping[str, Any]"

#: How many pictures' reasons an error message lists.
REASONS = 5

_opened: dict[str, Rewards] = {}
_opening = threading.Lock()


def open_rewards(source: Source) -> Rewards:
    """What to ask for scores. The same address or config gives the same client, or the same loaded models.

    Raises:
        ConfigError: neither an address, nor a config, nor something that scores.
        CheckpointError: a model that the config names cannot be loaded.
    """
    if isinstance(source, str):
        if not source.startswith(("http://", "https://")):
            raise ConfigError(f"rewards: {source!r} is no address; give http://HOST:PORT, or a config")
        source = {"url": source}
    if isinstance(source, Mapping):
        config = plain(source)
        key = json.dumps(config, sort_keys=True)
        with _opening:
            if key not in _opened:
                _opened[key] = build_rewards(config)
            return _opened[key]
    if not callable(getattr(source, "score", None)):
        raise ConfigError(
            f"rewards: {type(source).__name__} does not score; give a RewardClient or LocalRewards"
        )
    return source


def settle_weights(weights: Mapping[str, float] | None, dimensions: Sequence[str]) -> dict[str, float]:
    """The weights, or 1 for the only dimension there is.

    Raises:
        ConfigError: there are several dimensions and no weights, or a weight is wrong.
    """
    if weights is None:
        if len(dimensions) != 1:
            raise ConfigError(
                f"weights are missing; say how much each of {', '.join(dimensions)} counts, "
                f"as in {{{dimensions[0]!r}: 1.0}}"
            )
        return {dimensions[0]: 1.0}
    settled = {str(name): float(weight) for name, weight in weights.items()}
    check_weights(settled, dimensions)
    return settled


def weighed(
    rewards: Rewards,
    images: Sequence[ImageLike],
    prompts: Sequence[str] | None,
    weights: Mapping[str, float] | None,
) -> tuple[Combined, ScoreTable]:
    """Score and combine; the reward is NaN where a weighted score is missing."""
    settled = settle_weights(weights, rewards.dimensions)
    table = rewards.score(images, prompts)
    return combine(table, settled), table


def insist(combined: Combined, table: ScoreTable) -> Combined:
    """The same, once it is sure that every picture has a reward.

    Raises:
        MissingScore: some have none; the message lists the first of them with their reasons.
    """
    missing = np.flatnonzero(np.isnan(combined.reward))
    if len(missing):
        reasons = [f"picture {i}: {table.errors[i]}" for i in missing[:REASONS]]
        more = f"; and {len(missing) - REASONS} more" if len(missing) > REASONS else ""
        raise MissingScore(
            f"{len(missing)} of {len(table)} pictures have no reward, and this trainer takes only numbers: "
            + "; ".join(reasons)
            + more
        )
    return combined


def plain(value: Any) -> Any:
    """Dicts and lists instead of a config library's own kinds."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value
