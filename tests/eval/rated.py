"""Ratings of a few pictures, and the command that compares scores with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.__main__ import main


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


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
