"""One picture alone, after a scorer failed on the batch that it was in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from reward_plugin.errors import ScorerFailed
from reward_plugin.score.backend import Backend
from reward_plugin.score.reading import Loaded
from reward_plugin.scoring import score_all
from reward_plugin.types import ScoreTable


def alone(loaded: Loaded, backend: Backend, dimensions: Sequence[str]) -> ScoreTable:
    """Scores of one picture that could be read, with the reason where a scorer fails on it.

    Scorers of this process are asked one after the other, so that one that fails does not cost the others'
    columns; a server is asked as a whole.
    """
    assert loaded.picture is not None
    texts = [loaded.item.prompt] if loaded.item.prompt else None
    parts: list[tuple[Sequence[str], Callable[[], ScoreTable]]] = [
        (scorer.dimensions, partial(score_all, [scorer], [loaded.picture], texts))
        for scorer in backend.local_scorers
    ]
    if not parts:
        parts = [(dimensions, partial(backend.rewards.score, [loaded.picture], texts))]
    tables = []
    for columns, score in parts:
        try:
            tables.append(score())
        except ScorerFailed as error:
            reason = f"{loaded.item.image}: {error}"
            tables.append(ScoreTable.computed(columns, []).scatter([reason]))
    return ScoreTable.merge(tables)
