"""Reward functions for TRL's `GRPOTrainer`, which trains language models: text in, text out.

Where the pictures come from is said by one of three: `render` paints them from the completions (a model that
learns to write prompts for a painter), `column` names a dataset column or a field that a `rollout_func`
returned, and with neither they are looked for in the completions themselves, as the content part
`{"type": "image", "image": ...}` of a message.

TRL has a convention for missing scores: a reward function returns None. A completion for which every
function returned None leaves its group's baseline and gets advantage 0. But where another function did
return a number, TRL adds up what is there, as if the missing part were 0. So `reward_function` weighs here,
and gives None where any weighted score is missing; and `reward_functions` gives None in all its columns.
Beside reward functions of other origin, say `missing="raise"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from reward_plugin.adapters.common import Source, insist, open_rewards, settle_weights
from reward_plugin.combine import Combined, combine
from reward_plugin.errors import ConfigError
from reward_plugin.types import ImageLike, Rewards, ScoreTable

#: Completion texts to pictures, one each, in order; None where there is none.
Render: TypeAlias = "Callable[[list[str]], Sequence[ImageLike | None]]"
RewardFunction: TypeAlias = "Callable[..., list[float | None]]"
#: What becomes of a completion without a score: None for TRL to leave out, or `MissingScore`.
Missing: TypeAlias = Literal["none", "raise"]

NO_PICTURE = "there is no picture for this completion"


def reward_function(
    rewards: Source,
    weights: Mapping[str, float] | None = None,
    *,
    render: Render | None = None,
    column: str | None = None,
    prompt_column: str | None = None,
    missing: Missing = "none",
    name: str = "perceptual",
) -> RewardFunction:
    """One reward function: the weighted sum of the scores.

    Args:
        rewards: a server's address, the keys of `RewardsConfig`, or a client.
        weights: of the dimensions; may be left out where there is only one.
        render: paints the completions.
        column: where the pictures are instead.
        prompt_column: the texts that scorers compare pictures with; without it, the prompts.
        missing: see above.
        name: under which TRL logs it; the raw scores are logged as `NAME/DIMENSION`.

    Raises:
        ConfigError: both `render` and `column`, or a wrong weight.
    """
    pictures = _Scored(open_rewards(rewards), weights, render, column, prompt_column, missing, name)

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        combined = pictures(prompts, completions, columns)
        return [None if np.isnan(value) else float(value) for value in combined.reward]

    reward.__name__ = name
    return reward


def reward_functions(
    rewards: Source,
    weights: Mapping[str, float],
    *,
    render: Render | None = None,
    column: str | None = None,
    prompt_column: str | None = None,
    missing: Missing = "none",
    name: str = "perceptual",
) -> tuple[list[RewardFunction], list[float]]:
    """One function per dimension, for `multi_objective_aggregation="normalize_then_sum"`.

    The pictures are painted and scored once for all of them.

    Returns:
        the functions, and their weights for `GRPOConfig(reward_weights=...)`.
    """
    pictures = _Scored(open_rewards(rewards), weights, render, column, prompt_column, missing, name)

    def one(index: int, dimension: str) -> RewardFunction:
        def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
            combined = pictures(prompts, completions, columns)
            return [
                None if np.isnan(whole) else float(values[index])
                for whole, values in zip(combined.reward, combined.values, strict=True)
            ]

        reward.__name__ = dimension
        return reward

    dimensions = [dimension for dimension in pictures.rewards.dimensions if pictures.weights.get(dimension)]
    return [one(i, dimension) for i, dimension in enumerate(dimensions)], [
        pictures.weights[dimension] for dimension in dimensions
    ]


class _Scored:
    """Paints, scores and logs one batch; asked again about the same batch, it answers from memory."""

    def __init__(
        self,
        rewards: Rewards,
        weights: Mapping[str, float] | None,
        render: Render | None,
        column: str | None,
        prompt_column: str | None,
        missing: Missing,
        name: str,
    ) -> None:
        if render is not None and column is not None:
            raise ConfigError("give render (paints the completions) or column (has pictures), not both")
        if missing not in ("none", "raise"):
            raise ConfigError(f"missing is {missing!r}; it must be 'none' or 'raise'")
        self.rewards = rewards
        self.weights = settle_weights(weights, rewards.dimensions)
        self._render, self._column, self._prompt_column = render, column, prompt_column
        self._missing, self._name = missing, name
        self._last: tuple[list[Any], Combined] | None = None

    def __call__(self, prompts: list[Any], completions: list[Any], columns: Mapping[str, Any]) -> Combined:
        # TRL passes the very same list to each of its functions
        if self._last is None or self._last[0] is not completions:
            table = self._score(prompts, completions, columns)
            combined = combine(table, self.weights)
            if self._missing == "raise":
                insist(combined, table)
            self._log(combined, table, columns)
            self._last = completions, combined
        return self._last[1]

    def _score(self, prompts: list[Any], completions: list[Any], columns: Mapping[str, Any]) -> ScoreTable:
        images = self._pictures(completions, columns)
        texts = self._texts(prompts, columns)
        errors = [NO_PICTURE if image is None else None for image in images]
        there = [i for i, image in enumerate(images) if image is not None]
        if not there:
            return ScoreTable.computed(self.rewards.dimensions, []).scatter(errors)
        table = self.rewards.score([images[i] for i in there], [texts[i] for i in there])
        return table.scatter(errors)

    def _pictures(self, completions: list[Any], columns: Mapping[str, Any]) -> list[Any]:
        if self._render is not None:
            images = list(self._render([text_of(completion) for completion in completions]))
        elif self._column is not None:
            images = list(_column(columns, self._column))
        else:
            images = [image_of(completion) for completion in completions]
        if len(images) != len(completions):
            raise ConfigError(
                f"{len(images)} pictures for {len(completions)} completions; render must return one for each "
                "(None where there is none)"
            )
        return images

    def _texts(self, prompts: list[Any], columns: Mapping[str, Any]) -> list[str]:
        source = prompts if self._prompt_column is None else _column(columns, self._prompt_column)
        return [text_of(prompt) for prompt in source]

    def _log(self, combined: Combined, table: ScoreTable, columns: Mapping[str, Any]) -> None:
        """Raw means, the share without a reward, and the reasons, where TRL offers to log them."""
        missing = np.isnan(combined.reward)
        if (metric := columns.get("log_metric")) is not None:
            for i, dimension in enumerate(combined.dimensions):
                present = combined.values[~missing, i]
                metric(f"{self._name}/{dimension}", float(present.mean()) if len(present) else float("nan"))
            metric(f"{self._name}/missing", float(missing.mean()))
        if (extra := columns.get("log_extra")) is not None:
            extra(f"{self._name}_missing", [error or "" for error in table.errors])


def text_of(message: Any) -> str:
    """A prompt or completion as text: itself, or what the last message of a conversation says."""
    if isinstance(message, str):
        return message
    content = message[-1]["content"] if message else ""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


def image_of(completion: Any) -> Any:
    """The last picture in a conversation, or None."""
    if isinstance(completion, str):
        return None
    for message in reversed(completion):
        if isinstance(message["content"], str):
            continue
        for part in reversed(message["content"]):
            if part.get("type") == "image" and part.get("image") is not None:
                return part["image"]
    return None


def _column(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    if name not in columns:
        known = ", ".join(key for key, value in columns.items() if isinstance(value, list))
        raise ConfigError(f"no column {name!r} reached the reward function; there are {known or 'none'}")
    column: Sequence[Any] = columns[name]
    return column
