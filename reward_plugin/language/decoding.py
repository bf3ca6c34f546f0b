"""Write answers to several questions at once, on what they have in common.

Questions about one image share the system turn and the image, about 300 tokens of 330. So the vision tower
and the decoder run on that prefix once an image, its keys and values are handed to each of the image's
questions, and only the rests, padded on the left, and the answers are computed for each. A row that has ended
leaves the batch. A row sees what it would see alone, so a greedy answer is the one it would get alone, up to
the last bits of float arithmetic.

Shapes: B images, R rows (questions), P prefix tokens, L tokens so far, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from transformers import DynamicCache, InternVLForConditionalGeneration

from reward_plugin.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Draw answers instead of taking the likeliest token.

    Attributes:
        temperature: divides the logits; above 0.
        top_k: draw among the k likeliest tokens; 0 for all.
        top_p: draw among the fewest likeliest tokens that together have this probability; above 0, at most 1.
        seed: with the number of the question it fixes the answer, whatever the batch size.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no draw can be made from."""
        if not self.temperature > 0:
            raise ConfigError(f"temperature {self.temperature}: it must be above 0; leave sampling out for 0")
        if self.top_k < 0:
            raise ConfigError(f"top_k {self.top_k}: it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: it must be above 0 and at most 1")


def draw(logits: torch.Tensor, sampling: Sampling, chance: float) -> int:
    """The token at which the cumulative probability, likeliest first, passes `chance`.

    Args:
        logits: float32 [V].
        sampling: what of the distribution is kept.
        chance: uniform in [0, 1).
    """
    kept, tokens = logits.sort(descending=True)
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    probabilities = (kept.double() / sampling.temperature).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    within = int((cumulative - probabilities < sampling.top_p).sum())  # at least the first
    cumulative = cumulative[:within] / cumulative[within - 1]
    return int(tokens[min(int((cumulative <= chance).sum()), within - 1)])


class Continuation:
    """R prompts on their shared prefix: what has been computed of them, and the logits of the next token.

    Attributes:
        logits: float32 [R, V].
    """

    def __init__(
        self,
        model: InternVLForConditionalGeneration,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        features: torch.Tensor | None,
    ) -> None:
        """Compute the prefix once an image and the rest of each prompt.

        Args:
            model: the whole model.
            prompts: token ids of each row; all alike up to the end of the image.
            owner: index of each row's image; all 0 without images.
            features: [B, tokens an image, H], or None without images.
        """
        self._model = model
        self._core = model.model.language_model
        self._cache = DynamicCache(config=self._core.config)
        prefix = shared_prefix(prompts)
        ids = torch.tensor(prompts[0][:prefix], device=model.device)
        embedded = self._core.embed_tokens(ids).expand(1 if features is None else len(features), -1, -1)
        if features is not None:
            image_at = (ids == model.config.image_token_id).nonzero()[: features.shape[1], 0]
            embedded = embedded.clone()
            embedded[:, image_at] = features.to(embedded.dtype)
        self._core(inputs_embeds=embedded, past_key_values=self._cache, use_cache=True)
        self._cache.batch_select_indices(torch.tensor(owner, device=model.device))

        rests = [list(prompt[prefix:]) for prompt in prompts]
        longest = max(map(len, rests))
        padded = torch.tensor([[0] * (longest - len(rest)) + rest for rest in rests])
        real = torch.tensor([[0] * (longest - len(rest)) + [1] * len(rest) for rest in rests])
        self._seen = torch.ones(len(prompts), prefix, dtype=torch.long, device=model.device)
        self.logits = self._compute(padded.to(model.device), real.to(model.device))

    def add(self, tokens: Sequence[int]) -> None:
        """Give each row its next token."""
        ids = torch.tensor(tokens, device=self._seen.device)[:, None]
        self.logits = self._compute(ids, torch.ones_like(ids))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self._seen.device)
        self._cache.batch_select_indices(index)
        self._seen, self.logits = self._seen[index], self.logits[index]

    def _compute(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] after the last of the tokens `ids` [R, T], of which those marked in `real` count."""
        self._seen = torch.cat([self._seen, real], dim=1)
        positions = (self._seen.cumsum(-1) - 1)[:, -ids.shape[1] :].clamp(min=0)
        hidden = self._core(
            input_ids=ids,
            attention_mask=self._seen,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return self._model.lm_head(hidden[:, -1]).float()


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share; at least one token of each is left."""
    alike = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False)))
    return min(alike, *(len(prompt) - 1 for prompt in prompts))


def write(
    rows: Continuation,
    *,
    stop: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    numbers: Sequence[int] = (),
    on_token: Callable[[int, int], None] | None = None,
) -> tuple[list[list[int]], list[bool]]:
    """Write until each row has said `stop`, or `max_new_tokens`.

    Args:
        rows: is used up.
        stop: the token that ends an answer; it is not part of it.
        max_new_tokens: longest answer; at least 1.
        sampling: how to draw; None takes the likeliest token.
        numbers: the number of each row's question, for its draws.
        on_token: called with row and token as each is written.

    Returns:
        the tokens of each answer, and whether it was finished.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens {max_new_tokens}: it must be at least 1")
    written: list[list[int]] = [[] for _ in range(len(rows.logits))]
    finished = [False] * len(written)
    chances = [np.random.default_rng((sampling.seed, number)) for number in numbers] if sampling else []
    going = list(range(len(written)))
    for step in range(max_new_tokens):
        if sampling is None:
            tokens = rows.logits.argmax(-1).tolist()
        else:
            picks = zip(rows.logits, going, strict=True)
            tokens = [draw(logits, sampling, chances[row].random()) for logits, row in picks]
        staying = []
        for place, (row, token) in enumerate(zip(going, tokens, strict=True)):
            if token == stop:
                finished[row] = True
                continue
            staying.append(place)
            written[row].append(token)
            if on_token is not None:
                on_token(row, token)
        if not staying or step + 1 == max_new_tokens:
            break
        if len(staying) < len(going):
            rows.keep(staying)
        going = [going[place] for place in staying]
        rows.add([tokens[place] for place in staying])
    return written, finished
