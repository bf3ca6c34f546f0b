"""A benchmark of all eight tasks over the shipped pictures, clean and damaged, with known answers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.__main__ import main
from eval.unisim.manifest import Manifest, write_manifest
from eval.unisim.samples import ATTRIBUTES, Sample, Task

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "eval" / "data" / "images"
CLIP = str(ROOT / "pocket" / "weights" / "clip")
SCHEMA = json.loads((ROOT / "eval" / "unisim" / "results.schema.json").read_text())
#: Clean pictures that there are damaged copies of.
SCENES = ("penguin", "taxi", "swan", "camera", "snake", "volcano")


def scenes() -> dict[str, list[str]]:
    """Clean picture -> its damaged ones, by name."""
    found: dict[str, list[str]] = {}
    for path in sorted(IMAGES.glob("*.png")):
        base = next(
            (s for s in ("penguin", "taxi", "swan", "camera", "snake", "volcano") if path.stem.startswith(s)),
            None,
        )
        if base is not None and path.stem != base:
            found.setdefault(f"{base}.png", []).append(path.name)
    return found


def samples(task: Task) -> list[Sample]:
    """A few questions of a task; labels alternate, so no model is right by always taking the first."""
    pictures = scenes()
    clean = list(pictures)
    made: list[Sample] = []
    for index, (name, damaged) in enumerate(pictures.items()):
        other, label = clean[(index + 1) % len(clean)], index % 2
        text, wrong = f"a {Path(name).stem}", f"a {Path(other).stem}"
        triplet = [name, damaged[0]]
        triplet.insert(index % 3, other)
        shown: dict[Task, tuple[tuple[str, ...], tuple[str, ...], int]] = {
            "img_2afc": ((name, *_placed(damaged[0], other, label)), (), label),
            "it_2afc": (_placed(name, other, label), (text,), label),
            "text_2afc": ((name,), _placed(text, wrong, label), label),
            "iqa": (_placed(name, damaged[0], label), (), label),
            "paa": (_placed(name, damaged[0], label), (), label),
            "ooo": (tuple(triplet), (), index % 3),
            "nafc": ((name, other, damaged[1])[: 2 + label], (text,), 0),
        }
        if task == "ir":
            order = gallery()
            at = tuple(order.index(one) for one in damaged)
            made.append(Sample(name, task, (name,), easy=at[:2], hard=at[2:], junk=(order.index(name),)))
            continue
        images, texts, right = shown[task]
        attribute = ATTRIBUTES[index % len(ATTRIBUTES)] if task == "paa" else None
        made.append(Sample(f"{index}", task, images, texts, right, attribute))
    return made


def _placed(right: str, wrong: str, label: int) -> tuple[str, str]:
    return (right, wrong) if label == 0 else (wrong, right)


def gallery() -> list[str]:
    """What `ir` ranks: all pictures of the scenes, the queries among them."""
    pictures = scenes()
    return [*pictures, *(name for damaged in pictures.values() for name in damaged)]


def write_bench(
    folder: Path, tasks: Sequence[Task], dataset: str = "planted", images: Path = IMAGES, **more: Any
) -> Path:
    """Write a manifest for each task; `more` replaces samples by task."""
    for task in tasks:
        made = more.get(task, samples(task))
        pictures = gallery() if task == "ir" else []
        names = dict.fromkeys([*(name for sample in made for name in sample.images), *pictures])
        hashes = {name: hashlib.sha256((images / name).read_bytes()).hexdigest() for name in names}
        manifest = Manifest(dataset, task, "test", 0, tuple(made), tuple(pictures), hashes)
        write_manifest(manifest, folder / f"{task}__{dataset}.jsonl")
    return folder


def copied_pictures(folder: Path) -> Path:
    """A copy of the scenes' pictures, to be damaged."""
    folder.mkdir()
    for name in gallery():
        shutil.copyfile(IMAGES / name, folder / name)
    return folder


def ask(
    manifests: Path, out: Path, models: Sequence[dict[str, Any]], *options: str, root: Path = IMAGES
) -> int:
    """Run the command; returns its exit code."""
    out.mkdir(parents=True, exist_ok=True)
    config = out / "config.yaml"
    config.write_text(yaml.safe_dump({"models": list(models)}))
    command = ["unisim", "--config", str(config), "--manifests", str(manifests), "--root", str(root)]
    return main([*command, "--out", str(out), *options])


def results(out: Path) -> dict[str, Any]:
    """The record."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def rows(out: Path, model: str, task: str, dataset: str = "planted") -> list[dict[str, Any]]:
    """The answers' file."""
    path = out / "answers" / f"{model}__{task}__{dataset}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def cell(record: dict[str, Any], model: str, task: str) -> dict[str, Any]:
    """One model on one task."""
    found = next(entry for entry in record["models"] if entry["name"] == model)
    only: dict[str, Any] = next(part for part in found["datasets"] if part["task"] == task)
    return only


PIXELS: dict[str, Any] = {"name": "floor", "kind": "pixels"}
CLIP_SCORER: dict[str, Any] = {
    "name": "adherence",
    "kind": "scorer",
    "scorer": {"name": "clip", "path": CLIP, "device": "cpu"},
}
ENCODER: dict[str, Any] = {
    "name": "pocket-clip",
    "kind": "encoder",
    "path": CLIP,
    "device": "cpu",
    "batch_size": 8,
}
