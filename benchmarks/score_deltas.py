"""What each option that is not exact costs, in points: its scores against float32 with PIL's resize.

    python -m benchmarks.score_deltas [--checkpoint DIR] [--images FILE ...] [--device cuda] [VARIANT ...]

A VARIANT is options joined by commas, such as `dtype=bfloat16,precision=published` or `quantise=int8`;
without any, all that this device can run. `rounding=int4` and `rounding=fp8` round as `quantise` does and
compute in ordinary arithmetic, on any device (`benchmarks.rounding`).
Prints a markdown table of the largest and the mean difference
over images and dimensions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks import rounding
from reward_plugin import quantise
from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import ConfigError
from reward_plugin.internvl import RatingEngine
from reward_plugin.prompting import UNIPERCEPT_QUESTIONS

REFERENCE = Path(__file__).parents[1] / "tests" / "data" / "unipercept"
VARIANTS = (
    "resize=torch",
    "dtype=bfloat16",
    "dtype=bfloat16,precision=published",
    "dtype=bfloat16,resize=torch",
    *(f"dtype=bfloat16,quantise={kind}" for kind in quantise.KINDS),
    *(f"dtype=bfloat16,rounding={kind}" for kind in rounding.KINDS),
    "quantise=int8",
)


def scores(checkpoint: Path, images: list[Path], device: str, variant: str) -> np.ndarray:
    """Scores [N, K] under `name=value,...`; nothing for the reference."""
    options = dict(part.split("=") for part in variant.split(",") if part)
    dtype = getattr(torch, options.pop("dtype", "float32"))
    loaded = load_checkpoint(checkpoint, device=device, dtype=dtype)
    if kind := options.pop("quantise", None):
        quantise.apply(loaded.model, kind)
    if kind := options.pop("rounding", None):
        rounding.apply(loaded.model, kind)
    engine = RatingEngine(
        loaded,
        UNIPERCEPT_QUESTIONS,
        precision=options.pop("precision", "float32"),
        resize=options.pop("resize", "pil"),
    )
    if options:
        raise ConfigError(f"variant {variant!r}: unknown option {', '.join(options)}")
    values, errors = engine.rate_each(images)
    if any(errors):
        raise SystemExit(f"not scored: {errors}")
    return values


def table(checkpoint: Path, images: list[Path], device: str, variants: list[str]) -> str:
    """A row for each variant; one that cannot run here says why."""
    exact = scores(checkpoint, images, device, "")
    lines = ["| option | largest difference | mean difference |", "| --- | --- | --- |"]
    for variant in variants:
        try:
            difference = np.abs(scores(checkpoint, images, device, variant) - exact)
        except ConfigError as error:
            lines.append(f"| {variant} | not run: {error} | |")
        else:
            lines.append(f"| {variant} | {difference.max():.3g} | {difference.mean():.3g} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--checkpoint", type=Path, default=REFERENCE / "checkpoint")
    parser.add_argument("--images", type=Path, nargs="+", default=sorted((REFERENCE / "images").iterdir()))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(table(options.checkpoint, options.images, options.device, options.variants))


if __name__ == "__main__":
    main()
