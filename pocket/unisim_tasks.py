"""Questions of UniSim's tasks about pocket pictures: the small world in which its training is seen whole.

    python -m pocket.unisim_tasks --out runs/unisim_questions --train 800 --test 400

Each core task (`img_2afc`, `it_2afc`, `text_2afc`, `iqa`) has three data sets to train on and to be measured
on; data sets of unseen degradations, and tasks that are never trained (`paa`, `ooo`, `nafc`), are for
measuring alone. Answers follow from how pictures are made. Training and test share no picture and no caption:
test scenes are the reserved ones, which the pocket CLIP has not seen either.

Files: `pictures/<split>/*.png`, and `<split>/<task>-<set>.jsonl` in the format of `eval.unisim.manifest`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pocket.data import Subject, load_subjects
from pocket.unisim_world import (
    SEEN,
    UNSEEN,
    Asked,
    Pixels,
    World,
    alike,
    among,
    attribute,
    depicts,
    describes,
    edit,
    intact,
    ladder,
    mixed,
    odd,
    redraw,
    same_kind,
    says_quality,
    says_treatment,
    through,
    unspoilt,
    whole,
)


@dataclass(frozen=True)
class Set:
    """A data set: its task, how a question of it is made, and whether there is one to train on."""

    task: str
    ask: Callable[[World], Asked]
    trained: bool = True


#: The order within a task is that in which the table adds data sets to the training.
SETS: Mapping[str, Set] = {
    "severity": Set("img_2afc", same_kind(SEEN)),
    "alike": Set("img_2afc", alike),
    "redraw": Set("img_2afc", redraw),
    "unspoilt": Set("it_2afc", unspoilt),
    "whole": Set("it_2afc", whole),
    "scene": Set("it_2afc", depicts("layout")),
    "verdict": Set("text_2afc", says_quality),
    "treatment": Set("text_2afc", says_treatment),
    "place": Set("text_2afc", describes("layout")),
    "ladder": Set("iqa", ladder(SEEN)),
    "intact": Set("iqa", intact),
    "mixed": Set("iqa", mixed),
    "unseen_severity": Set("img_2afc", same_kind(UNSEEN), trained=False),
    "edit": Set("img_2afc", edit, trained=False),
    "through": Set("img_2afc", through, trained=False),
    "subject": Set("it_2afc", depicts("subject", murky=True), trained=False),
    "setting": Set("it_2afc", depicts("background"), trained=False),
    "noun": Set("text_2afc", describes("subject", murky=True), trained=False),
    "background": Set("text_2afc", describes("background", murky=True), trained=False),
    "unseen_ladder": Set("iqa", ladder(UNSEEN), trained=False),
    "brightness": Set("paa", attribute("brightness"), trained=False),
    "colorfulness": Set("paa", attribute("colorfulness"), trained=False),
    "contrast": Set("paa", attribute("contrast"), trained=False),
    "sharpness": Set("paa", attribute("sharpness"), trained=False),
    "odd": Set("ooo", odd, trained=False),
    "among": Set("nafc", among, trained=False),
}


def manifest_name(name: str) -> str:
    """File name of a data set's manifest."""
    return f"{SETS[name].task}-{name}.jsonl"


def write(
    out: Path,
    counts: Mapping[str, int],
    subjects: Sequence[Subject],
    seed: int = 0,
    names: Sequence[str] = tuple(SETS),
) -> None:
    """Write pictures and manifests; a manifest that is there already, of the same seed and size, stays.

    Args:
        out: Folder; created.
        counts: Split (train, test) -> questions of each data set.
        subjects: What there is to paint.
        seed: The same one makes the same files.
        names: Which data sets.
    """
    for split, count in counts.items():
        for name in names:
            kind = SETS[name]
            file = out / split / manifest_name(name)
            if (split == "train" and not kind.trained) or _is_made(file, seed, count):
                continue
            world = World(subjects, split == "test", zlib.crc32(f"{seed} {split} {name}".encode()))
            lines = [_line(world, kind, number, out, split) for number in range(count)]
            header = {
                "format": "unisim-bench manifest", "version": 1, "dataset": name, "task": kind.task,
                "split": split, "seed": seed, "samples": count, "left_out_count": 0, "left_out": [],
                "notes": ["Answers follow from how the pocket pictures were made."],
            }  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".tmp")
            partial.write_text("".join(json.dumps(row) + "\n" for row in [header, *lines]), encoding="utf-8")
            partial.replace(file)


def _is_made(file: Path, seed: int, count: int) -> bool:
    if not file.exists():
        return False
    with file.open(encoding="utf-8") as stream:
        header = json.loads(stream.readline())
    return bool(header["seed"] == seed and header["samples"] == count)


def _line(world: World, kind: Set, number: int, out: Path, split: str) -> dict[str, Any]:
    """One question, its choices in a random order."""
    asked = kind.ask(world)
    images, texts = list(asked.images), list(asked.texts)
    fixed = int(kind.task == "img_2afc")  # the reference is no choice
    choices = texts if kind.task == "text_2afc" else images[fixed:]
    order = [int(i) for i in world.rng.permutation(len(choices))]
    if kind.task == "text_2afc":
        texts = [texts[i] for i in order]
    else:
        images[fixed:] = [images[fixed:][i] for i in order]
    label = order.index(2 if kind.task == "ooo" else 0)
    files = [_save(image, out, split) for image in images]
    line: dict[str, Any] = {"id": str(number), "images": [name for name, _ in files]}
    line["sha256"] = [digest for _, digest in files]
    return (
        line
        | ({"texts": texts} if texts else {})
        | {"label": label}
        | ({"attribute": asked.attribute} if asked.attribute else {})
    )


def _save(pixels: Pixels, out: Path, split: str) -> tuple[str, str]:
    """Write a picture under a name that follows from its content; its name and hash."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    name = f"pictures/{split}/{digest[:2]}/{digest[2:18]}.png"
    file = out / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(buffer.getvalue())
    return name, digest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/unisim_questions"))
    parser.add_argument("--train", type=int, default=800, help="questions of each data set to train on")
    parser.add_argument("--test", type=int, default=400, help="questions of each data set to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder of downloaded pictures")
    args = parser.parse_args()
    write(args.out, {"train": args.train, "test": args.test}, load_subjects(args.cache), args.seed)


if __name__ == "__main__":
    main()
