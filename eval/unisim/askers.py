"""Who answers: how a model of each kind is recognised again, and asked.

An identity is one short text, such as `encoder@3f2a91c0d5e6`, with a digest of what decides the answers: the
content of the model's files, its number format and its options. Where files lie, the device and batch sizes
are not part of it, so a run may go on elsewhere.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.unisim.config import Kind, ModelConfig, UnisimConfig
from eval.unisim.parts import Part
from eval.unisim.samples import Sample
from reward_plugin.errors import ConfigError
from reward_plugin.score.identity import describe, fingerprint

#: Questions after which the answers of pixels are kept.
PIXELS_AT_ONCE = 200
#: Options that change how fast answers come, not what they are.
_NOT_ANSWERS = frozenset({"threads", "cache_items", "batch_size", "device"})


@dataclass(frozen=True)
class Asker:
    """One kind of model.

    Attributes:
        identity: What answers, of a model of this kind.
        ask: Answers the parts; returns what is to be known of it, see `eval.unisim.record.Model`.
    """

    identity: Callable[[ModelConfig, UnisimConfig], str]
    ask: Callable[[Sequence[Part], ModelConfig, UnisimConfig], dict[str, int]]


def scorer_spec(model: ModelConfig) -> dict[str, Any]:
    """A scorer's entry as `build_scorer` takes it, with the model's device and number format.

    Raises:
        ConfigError: there is no such scorer.
    """
    from reward_plugin.scorers import SCORERS

    spec = {"name": model.scorer} if isinstance(model.scorer, str) else dict(model.scorer or {})
    builder = SCORERS.get(spec.get("name", ""))
    if builder is None:
        raise ConfigError(f"scorer: unknown name {spec.get('name')!r}; known are {', '.join(SCORERS)}")
    parameters = inspect.signature(builder).parameters
    for option, value in (("device", model.device), ("dtype", model.dtype)):
        if option in parameters and value is not None:
            spec.setdefault(option, value)
    return spec


def _encoder_identity(model: ModelConfig, config: UnisimConfig) -> str:
    return _identity(model, {"weights": _content(model.weights)}, "float32")


def _ask_encoder(parts: Sequence[Part], model: ModelConfig, config: UnisimConfig) -> dict[str, int]:
    from eval.unisim.encoders import Encodes, ask_encoder

    def load() -> Encodes:
        from reward_plugin.unisim.encoder import Encoder

        assert model.path is not None
        options = {"threads": config.workers, "cache_items": 0} | model.options
        return Encoder.load(
            model.path,
            weights=model.weights,
            device=model.device,
            dtype=model.dtype or "float32",
            batch_size=model.at_once,
            revision=model.revision,
            **options,
        )

    store = file_of(config, "embeddings", _encoder_identity(model, config), ".bin")
    return ask_encoder(
        parts, load, store, techniques=model.techniques, batch_size=model.at_once, label=model.name
    )


def _scorer_identity(model: ModelConfig, config: UnisimConfig) -> str:
    return describe(scorer_spec(model))


def _ask_scorer(parts: Sequence[Part], model: ModelConfig, config: UnisimConfig) -> dict[str, int]:
    from eval.unisim.scorers import ask_scorer

    return ask_scorer(
        parts,
        scorer_spec(model),
        file_of(config, "scores", _scorer_identity(model, config), ".jsonl"),
        columns=model.columns,
        techniques=model.techniques,
        batch_size=model.at_once,
        workers=config.workers,
    )


def _generative_identity(model: ModelConfig, config: UnisimConfig) -> str:
    more: dict[str, Any] = {}
    if model.examples:
        from eval.unisim.generative import read_sources

        sources = read_sources(Path(config.examples_from or ""), config.root_of)
        digests = [manifest.digest for manifest, _ in sources]
        more = {"examples": model.examples, "seed": config.seed, "examples_from": digests}
    return _identity(model, more, "auto")


def _ask_generative(parts: Sequence[Part], model: ModelConfig, config: UnisimConfig) -> dict[str, int]:
    from eval.unisim.generative import Answers, ask_generative, draw_examples, read_sources

    sources = read_sources(Path(config.examples_from or ""), config.root_of) if model.examples else []

    def load() -> Answers:
        from reward_plugin.unisim.generative import GenerativeJudge

        assert model.path is not None
        return GenerativeJudge.load(
            model.path,
            device=model.device,
            dtype=model.dtype or "auto",
            batch_size=model.at_once,
            revision=model.revision,
            **model.options,
        )

    def examples(part: Part, sample: Sample) -> Sequence[Any]:
        if not model.examples:
            return ()
        from reward_plugin.unisim.generative import Example

        drawn = draw_examples(part.manifest, sample, sources, model.examples, config.seed)
        return [Example(question, choice) for question, choice in drawn]

    return ask_generative(parts, load, examples, batch_size=model.at_once, label=model.name)


def _ask_pixels(parts: Sequence[Part], model: ModelConfig, config: UnisimConfig) -> dict[str, int]:
    from tqdm import tqdm

    from eval.unisim.pixels import PixelJudge

    measured: dict[str, Mapping[Any, float]] = {}
    total = sum(len(part.todo) for part in parts)
    with tqdm(total=total, desc=model.name, unit="q", disable=not (total and sys.stderr.isatty())) as bar:
        for part in parts:
            if part.manifest.task == "ir":
                part.skipped = "pixels find no objects, and a whole gallery takes hours"
            part.ask(PixelJudge(part.path, part.look, measured), PIXELS_AT_ONCE, bar.update)
    return {}


ASKERS: dict[Kind, Asker] = {
    "encoder": Asker(_encoder_identity, _ask_encoder),
    "scorer": Asker(_scorer_identity, _ask_scorer),
    "generative": Asker(_generative_identity, _ask_generative),
    "pixels": Asker(lambda model, config: "pixels", _ask_pixels),
}


def answered_by(model: ModelConfig, identity: str) -> str:
    """What decides the answers beside the questions: the identity, and how it is used."""
    how: dict[str, Any] = {"techniques": model.techniques, "columns": model.columns}
    used = {"encoder": ("techniques",), "scorer": ("techniques", "columns")}.get(model.kind, ())
    return f"{identity} {_digest({name: how[name] for name in used})[:8]}" if used else identity


def file_of(config: UnisimConfig, folder: str, identity: str, ending: str) -> Path:
    """A file that belongs to what answers, whatever the config calls it."""
    return Path(config.out) / folder / f"{re.sub('[^A-Za-z0-9]+', '-', identity)}{ending}"


def _identity(model: ModelConfig, more: Mapping[str, Any], dtype: str) -> str:
    from reward_plugin.devices import resolve
    from reward_plugin.source import find_folder

    assert model.path is not None
    decides = {
        "path": fingerprint(find_folder(model.path, model.revision)),
        "dtype": str(resolve(model.device, model.dtype or dtype)[1]),
        "options": {key: value for key, value in model.options.items() if key not in _NOT_ANSWERS},
        **more,
    }
    return f"{model.kind}@{_digest(decides)[:12]}"


def _content(place: str | None) -> str | None:
    if place is None:
        return None
    path = Path(place).expanduser()
    return fingerprint(path) if path.exists() else place  # loading it will say what is wrong


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
