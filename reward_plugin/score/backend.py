"""What scores: models in this process, or a server; loaded only when something is left to score."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_plugin.errors import ConfigError
from reward_plugin.score.config import ScoreConfig
from reward_plugin.score.identity import scored_by
from reward_plugin.score.reading import BATCH_PIXELS, Load, byte_reader, decoder

if TYPE_CHECKING:
    from reward_plugin.client import RewardClient
    from reward_plugin.local import LocalRewards
    from reward_plugin.types import Scorer

#: What a server allows in a request if it does not say: pictures and bytes.
LIMITS = {"max_items": 32, "max_bytes": 64 << 20}


class Backend:
    """Scorers of a config and how pictures are read for them; a context manager that closes what it opened.

    Attributes:
        scored_by: see `reward_plugin.score.identity`.
        load: reads one item.
        batch_size: pictures for one call.
        max_weight: pixels or bytes for one call.
        depth: calls under way while the result of one is looked at.
        ranges: lowest and highest possible score of each dimension, as far as known.
        rewards: what scores, once opened.
    """

    rewards: LocalRewards | RewardClient

    def __init__(self, config: ScoreConfig) -> None:
        """Find out what would score; models are not loaded, a server is asked what it has.

        Raises:
            ConfigError: nothing to score with, or options that exclude each other.
        """
        self.batch_size = config.batch_size
        self.max_weight = BATCH_PIXELS
        self.depth = 1
        self.ranges: Mapping[str, tuple[float, float]] = {}
        self._specs = read_specs(config)
        self._client: RewardClient | None = None
        self._local: LocalRewards | None = None
        if config.url:
            self._connect(config)
        else:
            self.load: Load = decoder(config.exif)
            self.scored_by = scored_by(self._specs, config.exif)

    def open(self) -> Sequence[str]:
        """Load the scorers where that is still to be done; returns the dimensions."""
        if self._client is not None:
            self.rewards = self._client
            return self._client.dimensions
        from reward_plugin.local import LocalRewards
        from reward_plugin.scorers import build_scorers

        if not sys.stderr.isatty():  # transformers' bar over the weights, in a log
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        else:
            names = ", ".join(str(spec.get("name")) for spec in self._specs)
            print(f"reward_plugin: loading {names}", file=sys.stderr)
        self.rewards = self._local = LocalRewards(build_scorers(self._specs))
        self.ranges = self._local.ranges
        return self._local.dimensions

    @property
    def local_scorers(self) -> Sequence[Scorer]:
        """Scorers of this process; none where a server scores."""
        return () if self._local is None else self._local.scorers

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *exc: object) -> None:
        for opened in (self._client, self._local):
            if opened is not None:
                opened.close()

    def _connect(self, config: ScoreConfig) -> None:
        from reward_plugin.access import read_token
        from reward_plugin.client import RewardClient

        if self._specs:
            raise ConfigError("url: a server has its own scorers; leave out --model and --scorers")
        if config.exif != "ignore":
            raise ConfigError("exif: with --url it is the server's setting (serve --exif apply)")
        self._client = RewardClient(
            config.url or (), token=read_token(config.token_file), batch_size=config.batch_size
        )
        self.depth = 2 * (1 if isinstance(config.url, str) else len(config.url or ()))
        about = self._client.description
        limits = LIMITS | dict(about.get("limits") or {})
        self.batch_size = min(config.batch_size, int(limits["max_items"]))
        self.max_weight = int(limits["max_bytes"]) * 9 // 10  # the rest is for prompts and headers
        self.load = byte_reader(self.max_weight)
        scorers = about.get("scorers") or []
        self.ranges = {name: tuple(pair) for s in scorers for name, pair in dict(s.get("ranges", {})).items()}
        names = " ".join(str(scorer.get("name")) for scorer in scorers)
        self.scored_by = str(about.get("scored_by") or f"server: {names}")


def read_specs(config: ScoreConfig) -> list[dict[str, Any]]:
    """The scorers that the options ask for, in a form that `build_scorers` takes.

    `batch_size` is passed on to those that take one and are not given their own.
    """
    from reward_plugin.scorers import SCORERS

    specs = [dict(s) for s in config.scorers] if isinstance(config.scorers, list) else _read(config.scorers)
    if config.model is not None:
        model = {"name": "unipercept", "path": config.model, "device": config.device, "dtype": config.dtype}
        specs.append(model)
    if not specs and not config.url:
        raise ConfigError(
            "nothing to score with: give --model FOLDER, --scorers, --url, or --config FILE with one of them"
        )
    for spec in specs:
        builder = SCORERS.get(spec.get("name", ""))
        if builder is not None and "batch_size" in inspect.signature(builder).parameters:
            spec.setdefault("batch_size", config.batch_size)
    return specs


def _read(text: str) -> list[dict[str, Any]]:
    """Names of scorers; or the `scorers` of a YAML file, such as a server's config, whose rest is its own."""
    import yaml

    from reward_plugin.scorers import SCORERS

    names = [name.strip() for name in text.split(",")]
    if all(name in SCORERS for name in names):
        return [{"name": name} for name in names]
    try:
        content = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"scorers {text}: neither names of scorers ({', '.join(SCORERS)}), nor a list of them, nor a "
            f"readable YAML file: {reason}"
        ) from None
    scorers = content.get("scorers") if isinstance(content, dict) else content
    if not isinstance(scorers, list) or not all(isinstance(spec, dict) for spec in scorers):
        raise ConfigError(f"scorers {text}: it must hold a list `scorers` of {{name: ..., option: ...}}")
    return [dict(spec) for spec in scorers]
