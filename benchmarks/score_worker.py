"""One side of `score_throughput.py`, in a process and, for the published package, an environment of its own.

    python score_worker.py ours|published CHECKPOINT THREADS DTYPE DEVICE IMAGE...

Writes one JSON line when it is ready, reads one number of passes a line from standard input, and answers
each with a JSON line {"seconds": float, "scores": [[iaa, iqa, ista], ...]}. Needs nothing of this
repository on the published side.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

Score = Callable[[list[str]], list[list[float]]]

_library: object = None


def ours(checkpoint: str, dtype: str, device: str) -> Score:
    """This repository's scorer on files."""
    from reward_plugin.scorers.unipercept import build

    scorer = build(checkpoint, device=device, dtype=dtype)

    def score(images: list[str]) -> list[list[float]]:
        table = scorer.score(images)
        if any(table.errors):
            raise SystemExit(f"not scored: {table.errors}")
        return table.values.tolist()

    return score


def published(checkpoint: str, dtype: str, device: str) -> Score:
    """`unipercept-reward` on files."""
    import torch

    _without_torchvision_operators()
    from unipercept_reward import UniPerceptRewardInferencer

    peer = UniPerceptRewardInferencer(model_path=checkpoint, device=device, dtype=getattr(torch, dtype))

    def score(images: list[str]) -> list[list[float]]:
        rows = peer.reward(images)
        if None in rows:
            raise SystemExit("not scored: the published package returned None")
        return [[row["iaa"], row["iqa"], row["ista"]] for row in rows]

    return score


def _without_torchvision_operators() -> None:
    """Let torchvision's Python parts import where its compiled operators do not fit a CPU-only torch.

    The package uses only its transforms.
    """
    import torch
    import torch.library

    if torch.cuda.is_available():
        return
    global _library  # its definitions end with it
    library = _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor a) -> Tensor")
    register: Any = torch.library.register_fake

    def skip(op: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda f: f
        return register(op, *args, **kwargs)

    torch.library.register_fake = skip


def main() -> None:
    """Serve passes until standard input closes."""
    side, checkpoint, threads, dtype, device, *images = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the libraries print is no answer
    import torch

    torch.set_num_threads(int(threads))
    score = {"ours": ours, "published": published}[side](checkpoint, dtype, device)
    score(images[:1])
    versions = {name: version(name) for name in ("torch", "transformers", "pillow")}
    answers.write(json.dumps({"versions": versions, "cuda": torch.version.cuda}) + "\n")
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            scores = score(images)
        seconds = time.perf_counter() - start
        answers.write(json.dumps({"seconds": seconds, "scores": scores}) + "\n")


if __name__ == "__main__":
    main()
