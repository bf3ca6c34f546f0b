"""Any scorer under dimensions of its own, so that two of one kind can score side by side.

`{name: unipercept, path: A, prefix: tuned}` gives `tuned_iaa`, `tuned_iqa` and `tuned_ista`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reward_plugin.errors import ConfigError
from reward_plugin.types import ImageLike, Scorer, ScoreTable


class Prefixed:
    """A scorer whose dimensions have a prefix; everything else is the scorer's own."""

    def __init__(self, scorer: Scorer, prefix: str) -> None:
        """Take a built scorer."""
        self.name = f"{prefix}_{scorer.name}"
        self.scorer = scorer
        self.dimensions = tuple(f"{prefix}_{name}" for name in scorer.dimensions)
        self.ranges = {f"{prefix}_{name}": bounds for name, bounds in scorer.ranges.items()}
        self.takes_arrays = getattr(scorer, "takes_arrays", False)

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image."""
        table = self.scorer.score(images, prompts)
        return ScoreTable(self.dimensions, table.values, table.errors)


def check_prefix(prefix: object) -> None:
    """ConfigError where a dimension with this prefix would not be a name."""
    if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", prefix):
        raise ConfigError(f"prefix {prefix!r}: it must be letters, digits and _, beginning with a letter")
