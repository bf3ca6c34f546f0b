"""Questions per second of `python -m eval unisim` with an encoder, and of encoding anew what each shows.

    python -m benchmarks.unisim_bench [--rounds 3] [--scale 20] [--json FILE]

The published code encodes, for every question, all pictures that it shows. Here each distinct picture is
encoded once. What that is worth is decided by how often a picture is shown, so questions are drawn by the
readers of KADID-10K and KonIQ-10K, from stand-ins that have the published names, sizes and file formats: of
KADID's test split, which has 225 groups of 5 pictures with 10 pairs each, and of KonIQ's, which has 2015
pictures with 5000 questions of quality and of each of four attributes, one `--scale`-th. The reuse stays what
it is at full size: 4.0 and 24.8.

Both sides decode and resize in four threads, have the same model, batch size and kernels, and take turns.
Ours starts with an empty store and includes loading the model, checking the hash of every file, and writing
embeddings, answers, record and tables. The other side has its model loaded, and does one pass of the naive
technique; the published script makes a second one for clip-iqa. Ratios are of processor time, all threads
together, which other work on the machine does not change much, and of the clock.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL.Image

ROOT = Path(__file__).parents[1]
ATTRIBUTES = ("brightness", "colorfulness", "contrast", "sharpness")
#: Groups of five pictures in KADID's test split; pictures in KonIQ's, and questions of each of its tasks.
KADID_GROUPS, KONIQ_PICTURES, KONIQ_QUESTIONS = 225, 2015, 5000
#: Questions in a batch of the published script, and threads that decode.
BATCH, THREADS = 50, 4
MODEL = "pocket-clip"
CLOCKS = ("processor", "clock")


def stand_ins(root: Path, scale: float) -> dict[str, dict[str, int | None]]:
    """Write pictures as they are published; returns data set -> TASK/DATASET -> questions, None for all."""
    rng = np.random.default_rng(0)
    for group in range(round(KADID_GROUPS / scale)):
        for level in range(1, 6):
            name = f"I{73 + group // 25}_{group % 25 + 1:02d}_{level:02d}.png"
            _picture(rng, root / "kadid10k" / "images" / name, 512, 384)
    koniq = round(KONIQ_PICTURES / scale)
    names = [str(10004473376 + i) for i in range(koniq)]
    scores = rng.uniform(20, 80, koniq).round(2)
    rows = [(f"{n}.jpg", 0, 0, 0, 1, 0, 100, s, 0.5, "test") for n, s in zip(names, scores, strict=True)]
    head: tuple[str, ...] = ("image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set")
    folder = root / "koniq10k"
    for name in names:
        _picture(rng, folder / "1024x768" / f"{name}.jpg", 1024, 768)
    _csv(folder / "koniq10k_distributions_sets.csv", [head, *rows])
    measured = [(name, *rng.uniform(0, 1, 4).round(4), 90) for name in names]
    head = ("image_id", "brightness", "contrast", "colorfulness", "sharpness", "quality_factor")
    _csv(folder / "koniq10k_indicators.csv", [head, *measured])
    count = round(KONIQ_QUESTIONS / scale)
    sets = ["iqa/koniq", *(f"paa/koniq_{attribute}" for attribute in ATTRIBUTES)]
    return {
        "KADID-10K": {"iqa/kadid": None},
        "KonIQ-10K": dict.fromkeys(sets, count),
    }


def _picture(rng: np.random.Generator, path: Path, width: int, height: int) -> None:
    """A few soft blobs and grain: decodes about as slowly as a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.normal(0, 6, (height, width, 1))
    PIL.Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path)


def _csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


class Anew:
    """The published way: every picture of a batch of questions through the model, whatever was before."""

    def __init__(self, encoder: Any) -> None:
        """Take a loaded encoder, of which only model and preprocessing are used."""
        self.encoder = encoder
        self.pool = ThreadPoolExecutor(THREADS)

    def run(self, files: Sequence[Path], root: Path) -> dict[str, int]:
        """Answer the manifests; returns TASK/DATASET -> right answers by the naive technique."""
        from eval.unisim.manifest import read_manifest
        from reward_plugin.unisim.formulas import choose, rate
        from reward_plugin.unisim.prompts import texts_for

        found = {}
        for file in files:
            manifest, right = read_manifest(file), 0
            text = texts_for(manifest.samples[0].attribute or "quality", "naive")
            wanted = self.encoder.embed_texts(text)
            for start in range(0, len(manifest.samples), BATCH):
                batch = manifest.samples[start : start + BATCH]
                sides = [
                    rate(self._seen([root / sample.images[side] for sample in batch]), wanted)
                    for side in (0, 1)
                ]
                chosen = choose(np.stack(sides, axis=1)).choice
                right += sum(int(c) == sample.label for c, sample in zip(chosen, batch, strict=True))
            found[f"{manifest.task}/{manifest.dataset}"] = right
        return found

    def _seen(self, paths: Sequence[Path]) -> np.ndarray:
        import torch
        from torch.nn import functional as F

        from reward_plugin.images import to_rgb

        def pixels(path: Path) -> torch.Tensor:
            return self.encoder.processor([to_rgb(path)], return_tensors="pt").pixel_values[0]

        model = self.encoder.model
        with torch.inference_mode():
            batch = torch.stack(list(self.pool.map(pixels, paths)))
            seen = model.visual_projection(model.vision_model(pixel_values=batch).pooler_output)
            return F.normalize(seen, dim=-1).numpy()


def ours(files: Sequence[Path], root: Path, model: Path, out: Path) -> dict[str, int]:
    """The command, from manifests to tables, with an empty store; the same right answers."""
    from eval.unisim.config import ModelConfig, UnisimConfig
    from eval.unisim.run import run

    entry = ModelConfig(MODEL, "encoder", str(model), device="cpu", batch_size=BATCH)
    config = UnisimConfig(
        models=[entry],
        manifests=str(files[0].parent),
        sets=[file.stem.replace("__", "/") for file in files],
        root=str(root),
        workers=THREADS,
        out=str(out),
    )
    code = run(config)
    assert code == 0, f"exit code {code}"
    cells = json.loads((out / "results.json").read_text())["models"][0]["datasets"]
    return {f"{cell['task']}/{cell['dataset']}": cell["by_technique"]["naive"]["right"] for cell in cells}


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Both ways in turns, data set by data set."""
    from eval.unisim.manifest import read_manifest
    from eval.unisim.prepare import prepare
    from flow_grpo.log import versions
    from reward_plugin.unisim.encoder import Encoder

    root = work / "data"
    rows: list[dict[str, Any]] = []
    sets = stand_ins(root, options.scale)
    anew = Anew(Encoder.load(str(options.model), device="cpu", cache_items=0))
    for title, counts in sets.items():
        files = []
        for name, count in counts.items():
            prepare(name, root, work / "manifests", 0, count)
            files.append(work / "manifests" / f"{name.replace('/', '__')}.jsonl")
        manifests = [read_manifest(file) for file in files]
        shown = sum(len(sample.images) for manifest in manifests for sample in manifest.samples)
        pictures = len({digest for manifest in manifests for digest in manifest.hashes.values()})
        turns: list[dict[str, tuple[float, float]]] = []
        for turn in range(options.rounds + 1):  # the first warms up and is not counted
            out = work / f"out {title} {turn}"
            stamps = [_now()]
            mine = ours(files, root, options.model, out)
            stamps.append(_now())
            theirs = anew.run(files, root)
            stamps.append(_now())
            assert mine == theirs, f"{title}: {mine} right, and {theirs} anew"
            shutil.rmtree(out)
            if turn:
                sides = [np.subtract(after, before) for before, after in pairwise(stamps)]
                turns.append({clock: (sides[0][i], sides[1][i]) for i, clock in enumerate(CLOCKS)})
        rows.append(
            {
                "data": title,
                "questions": sum(len(manifest.samples) for manifest in manifests),
                "shown": shown,
                "pictures": pictures,
                "reuse": shown / pictures,
                **{clock: [list(map(float, turn[clock])) for turn in turns] for clock in CLOCKS},
            }
        )
    return {
        "date": date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "model": options.model.name,
        "scale": options.scale,
        "versions": versions(),
        "sets": rows,
        "reuse": sum(row["shown"] for row in rows) / sum(row["pictures"] for row in rows),
        "ratio": {clock: _total(rows, clock, 1) / _total(rows, clock, 0) for clock in CLOCKS},
    }


def _now() -> tuple[float, float]:
    """Seconds by `CLOCKS`."""
    return time.process_time(), time.perf_counter()


def _total(rows: Sequence[dict[str, Any]], clock: str, side: int) -> float:
    """Seconds of one side, ours or anew, in all turns."""
    return sum(turn[side] for row in rows for turn in row[clock])


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    heads = ["data", "questions", "pictures shown", "distinct", "reuse", "ours, questions/s", "anew"]
    heads += [f"ratio, {clock}" for clock in CLOCKS]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in result["sets"]:
        rates = [row["questions"] / median(turn[side] for turn in row[CLOCKS[0]]) for side in (0, 1)]
        numbers = (row["questions"], row["shown"], row["pictures"], f"{row['reuse']:.1f}")
        cells = [row["data"], *map(str, numbers), *(f"{rate:.0f}" for rate in rates)]
        for clock in CLOCKS:
            ratios = [slow / fast for fast, slow in row[clock]]
            cells.append(f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
        lines.append(cells)
    both = ", ".join(f"{result['ratio'][clock]:.1f} times by {clock}" for clock in CLOCKS)
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*text, "", f"Both together, whose reuse is {result['reuse']:.1f}: {both}."])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time UniSim-Bench's encoders beside encoding anew.")
    parser.add_argument(
        "--model", type=Path, default=ROOT / "pocket" / "weights" / "clip", help="a CLIPModel"
    )
    parser.add_argument("--scale", type=float, default=20, help="one in so many pictures is there")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both ways")
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        result = measure(options, Path(work))
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
