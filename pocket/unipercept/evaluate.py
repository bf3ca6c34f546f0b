"""Measure the pocket rater on held-out photographs and emoji: `python -m pocket.unipercept.evaluate`.

Rank correlation (SRCC) and linear correlation (PLCC) with the labels, the share of neighbouring severities
put in the right order, how low artefacts rate, and speed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from pocket.unipercept import data, degrade, ladders, photographs, redraw
from pocket.unipercept.model import DIMENSIONS, Rater, expected_score

SEVERITIES = (0.0, 0.12, 0.28, 0.45, 0.65, 0.9)


@torch.no_grad()
def score(rater: Rater, pictures: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """Scores [N, 3] in the order of `DIMENSIONS`, 0..100."""
    rows = [
        expected_score(rater(torch.from_numpy(pictures[i : i + batch].copy()))[0])
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(rows).numpy()


def correlations(rater: Rater, pool: Path, limit: int | None = None) -> dict[str, float]:
    """SRCC, PLCC and mean absolute error of each dimension on a pool of `data.build`."""
    pictures, targets = (
        np.load(pool / f"{name}.npy", mmap_mode="r")[:limit] for name in ("pictures", "targets")
    )
    scores, results = score(rater, pictures), {}
    for d, name in enumerate(DIMENSIONS):
        results[f"srcc/{name}"] = float(stats.spearmanr(scores[:, d], targets[:, d]).statistic)
        results[f"plcc/{name}"] = float(stats.pearsonr(scores[:, d], targets[:, d]).statistic)
        results[f"mae/{name}"] = float(np.abs(scores[:, d] - targets[:, d]).mean())
    return results


def severity_order(
    rater: Rater, crops: NDArray[np.uint8], kinds: tuple[str, ...] = ("blur", "noise", "jpeg"), seed: int = 3
) -> dict[str, float]:
    """Share of neighbouring `SEVERITIES` whose IQA falls, by degradation, over crops [N, 64, 64, 3]."""
    results = {}
    for kind in kinds:
        shown = np.stack(
            [
                degrade.degrade(crop, {kind: severity}, np.random.default_rng((seed, index)))
                for index, crop in enumerate(crops)
                for severity in SEVERITIES
            ]
        )
        quality = score(rater, shown)[:, 1].reshape(len(crops), len(SEVERITIES))
        results[f"order/{kind}"] = float((np.diff(quality, axis=1) < 0).mean())
    return results


def held_out_crops(count: int, cache: str | Path | None = None, seed: int = 11) -> NDArray[np.uint8]:
    """`count` detailed crops of the held-out photographs, taken in turn."""
    pictures = list(photographs.load("held_out", cache).values())
    rng = np.random.default_rng(seed)
    return np.stack([photographs.crop(pictures[i % len(pictures)], rng, 0.02) for i in range(count)])


def kinds(rater: Rater, cache: str | Path | None = None, count: int = 200) -> dict[str, NDArray[np.float32]]:
    """Mean scores [3] of clean and spoilt pictures, to see what a generator would be pulled towards."""
    sources = data.load_sources("held_out", cache)
    rng = np.random.default_rng(5)
    clean = [data.composite(sources, rng) for _ in range(count)]
    groups = {"emoji, clean": clean, "photograph, clean": list(held_out_crops(count, cache))}
    for name in degrade.DEGRADATIONS:
        groups[f"emoji, {name} 0.4"] = [degrade.degrade(picture, {name: 0.4}, rng) for picture in clean]
    groups["tiled motif"] = [data.tiled(sources, rng) for _ in range(count)]
    groups["background only"] = [data.backdrop(sources, rng) for _ in range(count)]
    groups["artefact only"] = [data.artefact(rng) for _ in range(count)]
    return {name: score(rater, np.stack(group)).mean(0) for name, group in groups.items()}


def malformed(rater: Rater, bank: ladders.Repainted) -> dict[str, float]:
    """Share of neighbouring rungs whose IQA falls, among things repainted by the pocket FLUX and among things
    that are warped, lack parts or are broken (severities 0, 0.3, 0.6, 0.9), over a held-out bank.
    """
    results = {}
    quality = score(rater, bank.pictures.reshape(-1, *bank.pictures.shape[2:]))[:, 1]
    falls = np.diff(quality.reshape(len(bank.pictures), -1), axis=1) < 0
    results["order/repainted"] = float(falls[np.diff(bank.severities, axis=1) > 0.05].mean())
    for name in degrade.MALFORMING:
        shown = np.stack(
            [
                degrade.degrade(ladder[0], {name: severity}, np.random.default_rng(index))
                for index, ladder in enumerate(bank.pictures)
                for severity in (0.0, 0.3, 0.6, 0.9)
            ]
        )
        quality = score(rater, shown)[:, 1].reshape(-1, 4)
        results[f"order/{name} thing"] = float((np.diff(quality, axis=1) < 0).mean())
        results[f"fall/{name} thing 0.3"] = float((quality[:, 0] - quality[:, 1]).mean())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pocket UniPercept on held-out pictures.")
    parser.add_argument(
        "--model", type=Path, default=Path("pocket/weights/unipercept"), help="published layout"
    )
    parser.add_argument(
        "--flux", type=Path, default=Path("pocket/weights/flux"), help="paints the malformed things"
    )
    parser.add_argument("--cache", help="download folder (default: $POCKET_CACHE or pocket/cache)")
    parser.add_argument("--count", type=int, default=2000, help="held-out pictures for the correlations")
    arguments = parser.parse_args()
    from reward_plugin.checkpoint import load_checkpoint
    from reward_plugin.scorers import SCORERS

    checkpoint = load_checkpoint(arguments.model)
    rater = Rater(checkpoint.model, checkpoint.tokenizer)
    results = correlations(rater, data.build("held_out", arguments.count, arguments.cache, seed=7))
    crops = held_out_crops(110, arguments.cache)
    results |= severity_order(rater, crops)
    bank = ladders.Repainted.load(redraw.build(arguments.flux, "held_out", 200, arguments.cache))
    results |= malformed(rater, bank)
    scorer = SCORERS["unipercept"](path=str(arguments.model))
    start = time.perf_counter()
    table = scorer.score(list(crops))
    results["images a second, reward_plugin"] = len(crops) / (time.perf_counter() - start)
    results["largest difference to reward_plugin"] = float(np.abs(table.values - score(rater, crops)).max())
    print("| measure | value |\n| --- | --- |")
    for name, value in results.items():
        print(f"| {name} | {value:.3g} |")
    print("\n| pictures | IAA | IQA | ISTA |\n| --- | --- | --- | --- |")
    for name, row in kinds(rater, arguments.cache).items():
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in row) + " |")


if __name__ == "__main__":
    main()
