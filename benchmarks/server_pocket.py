"""What the server costs: pocket UniPercept behind it against the same scorer called in process, in turns."""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from statistics import median
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.server_host import Server
from benchmarks.server_stamp import stamp
from reward_plugin.client import LocalRewards, RewardClient
from reward_plugin.types import ImageLike, Rewards, ScoreTable

#: Share of the in-process rate that must be left behind the server.
AIM_RATIO = 0.9
#: Points of 100 by which both may differ: batches of another size round differently.
SAME = 1e-3
SCORER = {"name": "unipercept", "path": "pocket/weights/unipercept", "device": "cpu", "batch_size": 32}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument("--turns", type=int, default=8, help="of each side; the first of each is dropped")
    parser.add_argument("--turn_seconds", type=float, default=6.0, help="of one turn of one side")
    parser.add_argument("--pocket_side", type=int, default=64, help="width and height of a picture")
    parser.add_argument("--pocket_batch", type=int, default=32, help="pictures in one request")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="compute threads of each side")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns on the same pictures; while one works the other is idle."""
    import torch

    from reward_plugin.scorers import build_scorers

    torch.set_num_threads(options.threads)
    scorer = "{" + ", ".join(f"{key}: {value}" for key, value in SCORER.items()) + "}"
    command = ["reward_plugin", "serve", "--scorers", f"[{scorer}]"]
    batches = _Batches(options.pocket_side, options.pocket_batch)
    with (
        Server(command, threads=options.threads) as server,
        RewardClient(server.url, batch_size=options.pocket_batch) as remote,
        LocalRewards(build_scorers([SCORER])) as local,
    ):
        images = batches.next()
        difference = float(np.abs(local.score(images).values - remote.score(images).values).max())
        turns: list[dict[str, float]] = []
        sides: dict[str, tuple[Rewards, int]] = {"local": (local, 1), "server": (remote, 3)}
        for i in range(options.turns):
            order = sorted(sides, reverse=bool(i % 2))  # whoever goes first finds the machine cooler
            rates = {name: _rate(*sides[name], batches.next, options.turn_seconds) for name in order}
            turns.append(rates)
    kept = turns[1:] or turns
    ratios = [turn["server"] / turn["local"] for turn in kept]
    return {
        "side": options.pocket_side,
        "batch": options.pocket_batch,
        "threads": options.threads,
        "images_per_second": {name: [round(turn[name], 2) for turn in kept] for name in sides},
        "ratio": {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "largest_difference": difference,
    }


class _Batches:
    """Ever new pictures, so that no cache answers in the scorer's place; made before, but for their stamp."""

    def __init__(self, side: int, batch: int) -> None:
        random = np.random.default_rng(7)
        self._pool = []
        for _ in range(8):
            coarse = random.integers(0, 256, (batch, 5, 5, 3), dtype=np.uint8)
            self._pool.append([np.array(PIL.Image.fromarray(c).resize((side, side))) for c in coarse])
        self._serial = 0

    def next(self) -> list[ImageLike]:
        """The next batch; it stays as it is until seven others have been taken."""
        batch = self._pool[self._serial // len(self._pool[0]) % len(self._pool)]
        for array in batch:
            stamp(array, self._serial)
            self._serial += 1
        return list(batch)


def _rate(rewards: Rewards, under_way: int, batch: Callable[[], list[ImageLike]], seconds: float) -> float:
    """Pictures a second with so many batches under way."""
    pending: deque[Future[ScoreTable]] = deque()
    count, start = 0, time.perf_counter()
    while (working := time.perf_counter() < start + seconds) or pending:
        while working and len(pending) < under_way:
            pending.append(rewards.submit(batch()))
        table = pending.popleft().result()
        if any(table.errors):
            raise SystemExit(f"pocket: no figure, because of a picture that was not scored: {table.errors}")
        count += len(table)
    return count / (time.perf_counter() - start)


def rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, measured, aim) for the table."""
    rates = {name: median(values) for name, values in result["images_per_second"].items()}
    ratio = result["ratio"]
    what = f"pocket UniPercept, {result['side']}x{result['side']}, {result['threads']} threads"
    return [
        (f"{what}, in process", f"{rates['local']:.1f} images/s", ""),
        (f"{what}, behind the server", f"{rates['server']:.1f} images/s", ""),
        (
            "ratio of the turns, median (range)",
            f"{ratio['median']:.0%} ({ratio['lowest']:.0%} to {ratio['highest']:.0%})",
            f">= {AIM_RATIO:.0%}",
        ),
        ("largest difference of a score", f"{result['largest_difference']:.1g} points of 100", f"< {SAME:g}"),
    ]


def failures(result: dict[str, Any]) -> list[str]:
    """What must never be."""
    if result["largest_difference"] < SAME:
        return []
    return [
        f"pocket: scores behind the server differ by {result['largest_difference']} from those in process"
    ]
