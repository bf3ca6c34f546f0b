"""What a server says of its scorers: which model, in which version, in which number format."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_plugin.queueing import ScorerInfo
from reward_plugin.types import Scorer


def describe(
    scorers: Sequence[Scorer], specs: Sequence[Mapping[str, Any]] | None = None
) -> tuple[ScorerInfo, ...]:
    """Built scorers, in order, with the config entries that they were built from where those are known."""
    return tuple(
        ScorerInfo(scorer.name, tuple(scorer.dimensions), dict(scorer.ranges), *provenance(spec))
        for scorer, spec in zip(scorers, specs or [{}] * len(scorers), strict=True)
    )


def provenance(spec: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Model, revision and precision of a config entry `{name: ..., path: ..., option: ...}`.

    Of a local folder only its own name is told, not the way to it, and as revision the first digits of a
    digest of its model files. Of a hub id the revision is the commit that was loaded.
    """
    from reward_plugin.scorers import SCORERS

    if spec.get("name") not in SCORERS:  # not known how it was built
        return None, None, None
    parameters = inspect.signature(SCORERS[spec["name"]]).parameters.values()
    options = {p.name: p.default for p in parameters if p.default is not p.empty} | dict(spec)
    precision = None
    if {"device", "dtype"} <= options.keys():
        from reward_plugin.devices import resolve

        precision = str(resolve(options["device"], options["dtype"])[1]).removeprefix("torch.")
        if options.get("quantise"):
            precision += f", weights {options['quantise']}"
    if "path" not in options:
        return options.get("metric"), None, precision
    return *_model(str(options["path"]), options.get("revision")), precision


def _model(path: str, revision: str | None) -> tuple[str, str | None]:
    from reward_plugin.score.identity import fingerprint

    local = Path(path).expanduser()
    if local.exists():
        return local.resolve().name, fingerprint(local)[:12]
    from huggingface_hub import snapshot_download

    try:  # the scorers are loaded, so what there is to know is here
        folder = Path(snapshot_download(path, revision=revision, local_files_only=True))
    except Exception:
        return path, revision
    return path, folder.name
