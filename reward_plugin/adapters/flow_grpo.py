"""Rewards for the published flow_grpo (github.com/yifan123/flow_grpo), in the form of its `rewards.py`.

`multi_score` takes the place of the function of that name. Its callable returns what the training scripts
read, `({name: [N floats], ..., "avg": [N floats]}, {})`: every dimension's raw scores for the log, and the
weighted sum that is trained on. `score_function` is one entry of upstream's own `score_functions`, to be
weighed beside its other rewards, and returns `([N floats], {})`.

Upstream has no missing score in training: a NaN in `avg` would turn every advantage of its group (or, with
global standard deviation, of the batch) into NaN, and its -10 only hides values from evaluation plots. So a
missing score raises `MissingScore` out of the script's `.result()`.

The package of this name that comes with upstream is not ours: see docs/adapters.md on using both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from reward_plugin.adapters.common import Source, insist, open_rewards, settle_weights, weighed

if TYPE_CHECKING:
    import torch

#: float tensor [N, 3, H, W] in [0, 1], or uint8 array [N, H, W, 3], as upstream passes them.
Batch: TypeAlias = "torch.Tensor | np.ndarray"


def multi_score(
    device: object, score_dict: Mapping[str, float], rewards: Source
) -> Callable[..., tuple[dict[str, list[float]], dict[str, Any]]]:
    """A reward function over the dimensions of a reward server, or of local scorers.

    Args:
        device: upstream passes its accelerator's; the scores are computed where the scorers are.
        score_dict: `config.reward_fn`, the weight of each dimension. One with weight 0 is only logged.
        rewards: a server's address, a `RewardsConfig` as mapping, or a client.

    Raises:
        ConfigError: an unknown dimension, or nothing but zeros.
    """
    source = open_rewards(rewards)
    weights = settle_weights(dict(score_dict.items()), source.dimensions)

    def reward(
        images: Batch, prompts: Sequence[str], metadata: object, only_strict: bool = True
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        combined, table = weighed(source, list(images), list(prompts), weights)
        insist(combined, table)
        details = {name: table.column(name).tolist() for name in weights}
        details["avg"] = combined.reward.tolist()
        return details, {}

    return reward


def score_function(
    rewards: Source, weights: Mapping[str, float] | None = None
) -> Callable[..., tuple[list[float], dict[str, Any]]]:
    """One reward among upstream's own: the weighted sum as a single score.

    Args:
        rewards: as in `multi_score`.
        weights: of the dimensions; may be left out where there is only one.
    """
    source = open_rewards(rewards)
    settled = settle_weights(weights, source.dimensions)

    def reward(images: Batch, prompts: Sequence[str], metadata: object) -> tuple[list[float], dict[str, Any]]:
        combined, table = weighed(source, list(images), list(prompts), settled)
        return insist(combined, table).reward.tolist(), {}

    return reward
