"""The scorers that a config can name.

A builder takes the options of one entry of `scorers:` as keyword arguments and returns a loaded scorer; torch
and transformers are imported inside it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_plugin.errors import ConfigError
from reward_plugin.scorers import (
    artimuse,
    clip,
    hpsv2,
    imagereward,
    laion,
    naive,
    ocr,
    pickscore,
    pixels,
    prefixed,
    pyiqa,
    unipercept,
    unisim,
)
from reward_plugin.types import Scorer

SCORERS: dict[str, Callable[..., Scorer]] = {
    "unipercept": unipercept.build,  # iaa, iqa, ista: 0 to 100
    "artimuse": artimuse.build,  # artimuse: 0 to 100
    "clip": clip.build,  # adherence: 100 times the cosine of image and prompt
    "pickscore": pickscore.build,  # pickscore: about 18 to 24
    "hpsv2": hpsv2.build,  # hpsv2: a cosine, about 0.15 to 0.35
    "imagereward": imagereward.build,  # imagereward: mean 0, deviation 1
    "unisim": unisim.build,  # unisim_adherence, unisim_quality and more: 100 times a cosine
    "laion": laion.build,  # laion_aesthetic: 1 to 10
    "ocr": ocr.build,  # ocr: 0 to 1
    "pixels": pixels.build,  # colourfulness, saturation, sharpness, grid_energy
    "naive": naive.build,  # naive_pixels: 0 to 100, made to be hacked
    "pyiqa": pyiqa.build,  # one metric of pyiqa under its own name; non-commercial licence
}


def build_scorer(spec: Mapping[str, Any]) -> Scorer:
    """Build one scorer from `{name: ..., option: ...}`.

    `prefix: TEXT` is an option of every scorer: its dimensions become `TEXT_iaa` and so on, so that two
    models of one kind can score side by side.

    Raises:
        ConfigError: unknown name or option, or a missing one, naming those that exist.
        CheckpointError: its model cannot be loaded.
    """
    options = dict(spec)
    name, prefix = options.pop("name", None), options.pop("prefix", None)
    if name not in SCORERS:
        raise ConfigError(f"scorers: unknown name {name!r}; known are {', '.join(SCORERS)}")
    parameters = inspect.signature(SCORERS[name]).parameters
    for option in options:
        if option not in parameters:
            known = ", ".join(parameters) or "none"
            raise ConfigError(f"scorer {name!r}: unknown option {option!r}; its options are: {known}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"scorer {name!r}: option {option!r} is missing")
    if prefix is None:
        return SCORERS[name](**options)
    prefixed.check_prefix(prefix)
    return prefixed.Prefixed(SCORERS[name](**options), prefix)


def build_scorers(specs: Sequence[Mapping[str, Any]]) -> list[Scorer]:
    """Build the entries of `scorers:` in order."""
    if not specs:
        raise ConfigError("scorers is empty; name at least one, such as {name: unipercept, path: FOLDER}")
    return [build_scorer(spec) for spec in specs]
