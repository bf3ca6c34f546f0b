"""The reward model that Flow-Factory loads by its path; needs Flow-Factory, and so does this file.

    rewards:
      - name: perceptual
        reward_model: reward_plugin.adapters.flow_factory_model.PerceptualReward
        url: http://127.0.0.1:8100
        weights: {iaa: 0.34, iqa: 0.33, ista: 0.33}

Beside `weights`, the keys that are not Flow-Factory's own are those of `reward_plugin.client.RewardsConfig`:
`url`, `token_file`, … for a server, or `scorers` to load models into every training process.
"""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from flow_factory.rewards import PointwiseRewardModel, RewardModelOutput

from reward_plugin.adapters.common import insist, open_rewards, plain, settle_weights, weighed
from reward_plugin.errors import ConfigError


class PerceptualReward(PointwiseRewardModel):
    """The weighted sum of perceptual scores, one number a picture.

    Flow-Factory has no missing score: it would train on a NaN. So a picture without a reward raises
    `MissingScore` with its reason.
    """

    required_fields = ("prompt", "image")

    def __init__(self, config: Any, accelerator: Any) -> None:
        """Connect, or load the scorers; a wrong key or weight is a `ConfigError` now, not after sampling."""
        super().__init__(config, accelerator)
        options = plain(config.extra_kwargs)
        weights = options.pop("weights", None)
        self.rewards = open_rewards(options)
        self.weights = settle_weights(weights, self.rewards.dimensions)

    @torch.no_grad()
    def __call__(self, prompt: list[str], image: list[PIL.Image.Image] | None = None) -> RewardModelOutput:
        """Rewards [B] of B pictures."""
        if image is None:
            raise ConfigError("perceptual reward: no pictures came; it does not score videos or sound")
        combined, table = weighed(self.rewards, image, prompt, self.weights)
        rewards = torch.from_numpy(insist(combined, table).reward).to(self.device)
        return RewardModelOutput(rewards=rewards)
