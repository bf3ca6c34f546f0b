"""`compute_score` for verl-omni: one generated picture to one reward, plain or async.

verl-omni loads a function by module path and name, calls it by keyword once a picture, and forwards the keys
of its config; see docs/adapters.md. The async form makes one request of the calls that are under way at the
same time, so prefer it.

A score that is missing raises `MissingScore`. That stops the run where the function is verl-omni's only
reward (`reward.custom_reward_function`). Among several (`reward.reward_functions`), verl-omni turns an
exception into a score of 0 unless the entry says `required=true`: always say it.

verl-omni's own HTTP scorer (`http_scorer_client`) sends and reads pickles; our server refuses those.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reward_plugin.adapters.common import Source, insist, open_rewards, settle_weights
from reward_plugin.combine import combine
from reward_plugin.errors import BadImage, ConfigError
from reward_plugin.types import Rewards, ScoreTable

if TYPE_CHECKING:
    import torch

#: Seconds for which the async form collects calls before it sends them together.
WINDOW = 0.01
#: What verl-omni adds to the call for rewards that use a model of its own, and `device`, by which an entry
#: tells its workers whether they need an accelerator (`cpu`: none); not looked at.
MANAGER_KEYS = frozenset(
    {"reward_router_address", "reward_model_tokenizer", "model_name", "sampling_params", "device"}
)


def compute_score(
    data_source: str,
    solution_image: torch.Tensor,
    ground_truth: str | None,
    extra_info: Mapping[str, Any] | None = None,
    *,
    rewards: Source,
    weights: Mapping[str, float] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Score one picture and wait for it.

    Args:
        data_source: not looked at.
        solution_image: uint8 [3, H, W].
        ground_truth: the prompt, for the scorers that need one.
        extra_info: not looked at.
        rewards: a server's address, or the keys of `RewardsConfig` (`url`, `token_file`, `scorers`, …).
        weights: of the dimensions; may be left out where there is only one.
        options: what verl-omni itself may add; anything else is an error.

    Returns:
        `score`, the weighted sum, and the raw score of each weighted dimension, which verl-omni logs.

    Raises:
        MissingScore: the picture could not be scored.
        ConfigError: a wrong key, weight or address.
    """
    _check(options)
    source = open_rewards(rewards)
    return _result(source.score([_picture(solution_image)], [ground_truth or ""]), weights)


async def compute_score_async(
    data_source: str,
    solution_image: torch.Tensor,
    ground_truth: str | None,
    extra_info: Mapping[str, Any] | None = None,
    *,
    rewards: Source,
    weights: Mapping[str, float] | None = None,
    **options: Any,
) -> dict[str, float]:
    """As `compute_score`; calls that start within `WINDOW` seconds of each other become one request."""
    _check(options)
    source = await asyncio.to_thread(open_rewards, rewards)  # the first call may load a model
    gatherers = _gatherers.setdefault(asyncio.get_running_loop(), {})
    gatherer = gatherers.setdefault(id(source), _Gatherer(source))
    table = await gatherer.score(_picture(solution_image), ground_truth or "")
    return _result(table, weights)


class _Gatherer:
    """Collects pictures for a moment and scores them together; belongs to one event loop."""

    def __init__(self, source: Rewards) -> None:
        self._source = source
        self._waiting: list[tuple[torch.Tensor, str, asyncio.Future[ScoreTable]]] = []
        self._sent: set[asyncio.Task[None]] = set()  # the loop itself keeps tasks only weakly

    async def score(self, image: torch.Tensor, prompt: str) -> ScoreTable:
        """The one-row table of a picture."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(WINDOW, self._send)
        future: asyncio.Future[ScoreTable] = loop.create_future()
        self._waiting.append((image, prompt, future))
        return await future

    def _send(self) -> None:
        task = asyncio.ensure_future(self._score(self._waiting))
        self._waiting = []
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    async def _score(self, waiting: list[tuple[torch.Tensor, str, asyncio.Future[ScoreTable]]]) -> None:
        images, prompts, futures = zip(*waiting, strict=True)
        try:
            table = await asyncio.wrap_future(self._source.submit(images, prompts))
        except Exception as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for i, future in enumerate(futures):
            if not future.done():
                future.set_result(
                    ScoreTable(table.dimensions, table.values[i : i + 1], table.errors[i : i + 1])
                )


_gatherers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Gatherer]]
_gatherers = weakref.WeakKeyDictionary()


def _check(options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in MANAGER_KEYS:
            raise ConfigError(
                f"verl-omni reward: unknown key {key!r}; known are rewards (url, …) and weights"
            )


def _picture(image: torch.Tensor) -> torch.Tensor:
    """[3, H, W] of what verl-omni passes; a video is refused, and so are latents."""
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.is_floating_point():
        raise BadImage(
            f"solution_image is {image.dtype} {tuple(image.shape)}; this reward takes one uint8 picture "
            "[3, height, width]: set the rollout's output_type to image"
        )
    return image


def _result(table: ScoreTable, weights: Mapping[str, float] | None) -> dict[str, float]:
    combined = insist(combine(table, settle_weights(weights, table.dimensions)), table)
    raw = {name: float(value) for name, value in zip(combined.dimensions, combined.values[0], strict=True)}
    return {"score": float(combined.reward[0]), **raw}
