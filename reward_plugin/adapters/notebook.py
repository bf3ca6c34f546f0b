"""A plain function for notebooks: pictures in, a small table out.

from reward_plugin.adapters.notebook import score

score(["one.jpg", "two.png"], url="http://127.0.0.1:8100")
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from reward_plugin.adapters.common import Source, open_rewards, settle_weights
from reward_plugin.combine import combine
from reward_plugin.errors import ConfigError
from reward_plugin.types import ImageLike


class Scores(list[dict[str, Any]]):
    """One dict a picture: `picture`, each dimension, `reward` where weights were given, and `error`.

    A score that is missing is None, and `error` says why; it is None otherwise. `pandas.DataFrame(scores)`
    takes it as it is.
    """

    def __repr__(self) -> str:
        """Aligned columns."""
        if not self:
            return "no pictures"
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head, *rows = ([html.escape(text) for text in row] for row in self._cells())
        body = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in row)}</tr>" for row in rows)
        return f"<table><tr>{''.join(f'<th>{text}</th>' for text in head)}</tr>{body}</table>"

    def _cells(self) -> list[list[str]]:
        failed = any(row["error"] for row in self)
        columns = [name for name in (self[0] if self else ()) if name != "error" or failed]
        return [columns, *([_cell(row[name]) for name in columns] for row in self)]


def score(
    images: ImageLike | Sequence[ImageLike],
    prompts: str | Sequence[str] | None = None,
    *,
    url: str | None = None,
    model: str | Path | None = None,
    rewards: Source | None = None,
    weights: Mapping[str, float] | None = None,
) -> Scores:
    """Score pictures on a server, or with a model in this process, which stays loaded for the next call.

    Args:
        images: one picture or several: paths, PIL images, arrays, tensors, encoded bytes, or a batch
            [N, 3, H, W] / [N, H, W, 3].
        prompts: one for all pictures, or one each, for scorers that need them.
        url: of a reward server.
        model: a UniPercept folder or hub id, instead of a server.
        rewards: a client, local scorers or the keys of `RewardsConfig`, instead of both.
        weights: adds the column `reward`, the weighted sum.

    Raises:
        ConfigError: not exactly one of `url`, `model` and `rewards`; a wrong weight or number of prompts.
        ServerUnavailable: no server answered; `rewards={"url": ..., "max_outage": 5}` waits less long.
    """
    given = [value for value in (url, model, rewards) if value is not None]
    if len(given) != 1:
        raise ConfigError("give one of url (a reward server), model (a folder) and rewards (anything else)")
    if model is not None:
        rewards = {"scorers": [{"name": "unipercept", "path": str(model)}]}
    source = open_rewards(url if url is not None else rewards)  # type: ignore[arg-type]
    pictures = _several(images)
    texts = [prompts] * len(pictures) if isinstance(prompts, str) else prompts
    table = source.score(pictures, texts)
    rows = [
        {"picture": _name(picture, i)} | row
        for i, (picture, row) in enumerate(zip(pictures, table.rows(), strict=True))
    ]
    if weights is not None:
        combined = combine(table, settle_weights(weights, table.dimensions))
        for row, value in zip(rows, combined.reward, strict=True):
            row["reward"] = None if np.isnan(value) else float(value)
    return Scores(row | {"error": error} for row, error in zip(rows, table.errors, strict=True))


def _several(images: Any) -> list[ImageLike]:
    if isinstance(images, str | Path | bytes | PIL.Image.Image) or getattr(images, "ndim", None) == 3:
        return [images]
    return list(images)


def _name(picture: ImageLike, index: int) -> str:
    return Path(picture).name if isinstance(picture, str | Path) else str(index)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
