"""A record with pictures on disk, built by the real code from drawn scores, to draw pages from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from eval.generate import Item
from eval.metrics import Bootstrap
from eval.pictures import look, prompt_diversities
from eval.record import Side, build
from eval.results import write
from eval.verdict import Targets
from reward_plugin.types import ScoreTable

DIMENSIONS = ("iaa", "iqa", "adherence", "grid_energy")
WEIGHTS = {"iaa": 0.5, "iqa": 0.5}
TWO: Mapping[str, int | None] = {"base": None, "tuned": None}


def make_record(
    out: Path,
    prompts: list[str],
    *,
    members: int = 1,
    side: int = 64,
    shift: float = 5.0,
    failed: tuple[int, ...] = (),
    models: Mapping[str, int | None] = TWO,
    hacked: str | None = None,
    pictures: int | None = None,
) -> dict[str, Any]:
    """Write pictures and `results.json`.

    Args:
        shift: Mean gain of the second model; the third gains twice as much, and so on.
        failed: Pairs of the last model that lack a score.
        models: Name -> step of the run, the reference first.
        hacked: A model whose pictures have a grid and whose adherence falls.
        pictures: So many different pictures of each model, which the pairs share; none: each has its own.
    """
    rng = np.random.default_rng(0)
    items = [Item(prompt, index, member) for index, prompt in enumerate(prompts) for member in range(members)]
    base = rng.normal([50, 60, 30, 0.002], [8, 6, 3, 0.0005], size=(len(items), 4))
    sides: list[Side] = []
    files: dict[str, list[Path]] = {}
    for number, (name, step) in enumerate(models.items()):
        values = base + rng.normal(
            [number * shift, number * shift, 0, 0], [4, 4, 1, 0.0002], size=base.shape
        ) * bool(number)
        if name == hacked:
            values += [0, 0, -4, 0.05]
        folder = out / "gallery" / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        files[name] = [folder / items[i % (pictures or len(items))].file for i in range(len(items))]
        for file in dict.fromkeys(files[name]):
            picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            PIL.Image.fromarray(picture).resize((side, side), PIL.Image.Resampling.BICUBIC).save(file)
        values = values.astype(np.float32)
        errors: list[str | None] = [None] * len(items)
        for row in failed if number == len(models) - 1 else ():
            values[row], errors[row] = np.nan, "the scorer ran out of memory"
        sides.append(_side(out, name, step, items, files, ScoreTable(DIMENSIONS, values, tuple(errors))))
    record = build(
        items,
        ["animals" if item.index % 2 else "food" for item in items],
        sides,
        weights=WEIGHTS,
        targets=Targets(reward_gain=2.0),
        bootstrap=Bootstrap(resamples=500),
        title="A small <comparison> & more",
        settings={"model": "models/flux", "sampling": {"num_steps": 2}},
    )
    write(record, out / "results.json")
    return record


def _side(
    out: Path,
    name: str,
    step: int | None,
    items: list[Item],
    files: Mapping[str, list[Path]],
    scores: ScoreTable,
) -> Side:
    reference = next(iter(files.values()))
    seen = {pair: look(*pair) for pair in set(zip(reference, files[name], strict=True))}
    looks = [seen[pair] for pair in zip(reference, files[name], strict=True)]
    run = None if step is None else "runs/one"
    lora = {"lora": None, "lora_sha256": None, "run": run, "step": step, "seed": None}
    return Side(
        name=name,
        model={"path": "models/flux", **lora},
        images=[file.relative_to(out).as_posix() for file in files[name]],
        scores=scores,
        distance={"pixels": np.array([found.pixels for found in looks])},
        per_prompt={"diversity": prompt_diversities(items, [found.small for found in looks])},
    )
