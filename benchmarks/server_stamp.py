"""Pictures that carry a number, and a scorer that reads it back: every answer can be checked against its
picture and its prompt, and scoring costs next to nothing.

    python -m benchmarks.server_stamp --port 8199      # a reward server with this scorer, as `serve` runs it

The scorer has three dimensions: `first` and `last` are the 24 bits of the first and of the last pixel, so a
picture that was torn shows as well as one that was swapped, and `prompt` is a checksum of the text. 24 bits
are exact in a float32. Here they all follow from one number, the serial.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from reward_plugin.images import to_rgb
from reward_plugin.types import ImageLike, ScoreTable

BITS = 0xFFFFFF


class StampScorer:
    """Reads two pixels and sums a text; see the module."""

    name = "stamp"
    dimensions = ("first", "last", "prompt")
    ranges: Mapping[str, tuple[float, float]] = {name: (0.0, float(BITS)) for name in dimensions}

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """One row a picture; without prompts, as for the empty text."""
        texts = prompts if prompts is not None else [""] * len(images)
        rows = [
            (*_ends(image), zlib.crc32(text.encode()) & BITS)
            for image, text in zip(images, texts, strict=True)
        ]
        return ScoreTable.computed(self.dimensions, np.array(rows, dtype=np.float32))


def _ends(image: ImageLike) -> tuple[int, int]:
    """The first and the last pixel as numbers, without touching those between them."""
    if isinstance(image, np.ndarray):
        first, last = image[0, 0].tolist(), image[-1, -1].tolist()
    else:
        rgb: Any = image if isinstance(image, PIL.Image.Image) else to_rgb(image)
        first, last = rgb.getpixel((0, 0)), rgb.getpixel((rgb.width - 1, rgb.height - 1))
    return int.from_bytes(bytes(first), "big"), int.from_bytes(bytes(last), "big")


def stamp(array: np.ndarray, serial: int) -> None:
    """Write a serial, 0 to 2^24 - 1, into the corners of a uint8 [H, W, 3] picture."""
    array[-1, -1] = tuple(_mixed(serial).to_bytes(3, "big"))
    array[0, 0] = tuple(serial.to_bytes(3, "big"))


def prompt_of(serial: int) -> str:
    """The text that goes with a serial."""
    return f"picture number {serial}"


def expected(serials: Sequence[int]) -> np.ndarray:
    """What the scorer answers for stamped pictures: float32 [N, 3]."""
    rows = [(serial, _mixed(serial), zlib.crc32(prompt_of(serial).encode()) & BITS) for serial in serials]
    return np.array(rows, dtype=np.float32).reshape(-1, 3)


def blank(side: int, seed: int = 0) -> np.ndarray:
    """A picture of noise to stamp: uint8 [side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _mixed(serial: int) -> int:
    return (serial * 0x9E3779B1 >> 8) & BITS


def build() -> StampScorer:
    """Nothing to load, no options."""
    return StampScorer()


def main() -> None:
    """Serve it exactly as `python -m reward_plugin serve` would, until interrupted."""
    from reward_plugin.scorers import SCORERS
    from reward_plugin.serve import ServeConfig, serve

    parser = argparse.ArgumentParser(description="A reward server that answers with what the pictures carry.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default=ServeConfig.host)
    parser.add_argument("--tls_certificate", type=Path)
    parser.add_argument("--max_waiting", type=int, default=ServeConfig.max_waiting)
    parser.add_argument("--max_bytes", type=int, default=ServeConfig.max_bytes)
    options = parser.parse_args()
    SCORERS["stamp"] = build
    serve(ServeConfig(scorers=[{"name": "stamp"}], **vars(options)))


if __name__ == "__main__":
    main()
