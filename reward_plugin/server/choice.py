"""Which scorers a request asks for, and which of their columns."""

from __future__ import annotations

from collections.abc import Sequence

from reward_plugin.queueing import ScorerInfo
from reward_plugin.server.failures import RequestFailed


def choose(
    infos: Sequence[ScorerInfo], scorers: Sequence[str] | None, dimensions: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the scorers to run, and of the answer's columns.

    Args:
        infos: all scorers.
        scorers: those asked for, or None for all.
        dimensions: columns asked for, or None for all that those scorers give; with them, only the scorers
            that give one of them run.

    Raises:
        RequestFailed: an unknown name (404), none at all, or one that occurs twice (400).
    """
    known = {info.name: info for info in infos}
    names = _checked("scorer", scorers, list(known))
    owners = {dimension: name for name in names for dimension in known[name].dimensions}
    wanted = _checked("dimension", dimensions, list(owners))
    if dimensions is not None:
        names = [name for name in names if any(owners[dimension] == name for dimension in wanted)]
    return tuple(names), tuple(wanted)


def _checked(kind: str, asked: Sequence[str] | None, known: list[str]) -> list[str]:
    if asked is None:
        return known
    for name in asked:
        if name not in known:
            raise RequestFailed(
                404, f"unknown_{kind}", f"no {kind} {name[:80]!r} here; there are {', '.join(known)}"
            )
    if not asked or len(set(asked)) != len(asked):
        raise RequestFailed(400, "malformed", f"{kind}s must name at least one {kind}, and each once")
    return list(asked)
