"""Ratings of a few pictures, and the command that compares scores with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from eval.__main__ import main


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def make_pictures(folder: Path) -> Path:
    """p0.png to p7.png, more and more red and grainy, and ratings that follow it but for one pair."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        colour = np.array((200, 200 - 20 * i, 200 - 20 * i)) + i * rng.integers(0, 5, (48, 48, 1))
        PIL.Image.fromarray(colour.astype(np.uint8)).save(folder / f"images/p{i}.png")
    write_ratings(folder, [(f"p{i}.png", rating) for i, rating in enumerate((1, 2, 3, 5, 4, 6, 7, 8))])
    return folder


def write_ratings(folder: Path, entries: Sequence[tuple[str, Any]]) -> None:
    listed = [{"image": image, "gt_score": rating} for image, rating in entries]
    (folder / "test.json").write_text(json.dumps(listed))


def rate(
    folder: Path, *options: str, scorers: str = "pixels", columns: Sequence[str] = ("saturation",)
) -> int:
    command = ["rating", "--data", str(folder / "test.json"), "--out", str(folder / "out")]
    command += ["--columns", json.dumps({"test": columns} if columns else {})]
    if scorers:
        command += ["--scorers", scorers]
    return main([*command, "--bootstrap.resamples", "50", *options])
