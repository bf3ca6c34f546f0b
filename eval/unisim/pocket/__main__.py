"""The small UniSim-Bench in `eval/data/unisim`: `python -m eval.unisim.pocket`.

Questions of all seven tasks, and of `nafc`, about the 104 pictures of `eval/data/images`, which ship: nothing
is downloaded, and no picture is made. Answers follow from how the pictures were made (see
`pocket.unipercept.benchmark`): what is shown, what was done to it, and how strongly. Nobody was asked.

Which of many possible questions are asked, and in which order choices come, follows from names alone
(`eval.unisim.draw`), so the same pictures make the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from eval.unisim.draw import chosen
from eval.unisim.hashes import hash_pictures
from eval.unisim.manifest import Manifest, write_manifest
from eval.unisim.pocket import questions as ask
from eval.unisim.pocket.pictures import World
from eval.unisim.pocket.questions import KEPT, SEED
from eval.unisim.samples import Sample

#: TASK/DATASET -> how its questions are made. Of more than `KEPT` questions so many are drawn.
SETS: Mapping[str, Callable[[World], Iterator[Sample]]] = {
    "img_2afc/severity": ask.severity_beside,
    "img_2afc/content": ask.content,
    "it_2afc/things": ask.depicted(lambda world: world.things),
    "it_2afc/spoilt": ask.depicted_spoilt,
    "it_2afc/photographs": ask.depicted(lambda world: world.photographs),
    "text_2afc/noun": ask.described("noun"),
    "text_2afc/place": ask.described("place"),
    "text_2afc/background": ask.described("background"),
    "text_2afc/photographs": ask.described_photograph,
    "iqa/severity": ask.severity,
    "iqa/scenes": ask.scenes,
    "paa/edited": ask.edited,
    "paa/measured": ask.measured,
    "ooo/copies": ask.copies,
    "ooo/crops": ask.crops,
    "ir/copies": ask.retrieved,
    "nafc/spoilt": ask.among,
}
NOTES = {
    "": "Answers follow from how the pictures were made (eval/data/README.md); nobody was asked.",
    "paa/measured": "The label is the pixel statistic that `kind: pixels` chooses by, so that floor is right "
    "by construction.",
}


def make(images: Path, out: Path) -> list[Manifest]:
    """Write a manifest for each data set.

    Args:
        images: Folder of the shipped pictures, `eval/data/images`.
        out: Folder of the manifests; created.

    Raises:
        ValueError: The folder holds other pictures.
    """
    world = World(images)
    names = [one.file for one in (*world.clean.values(), *ask.gallery(world))]
    hashed = hash_pictures(images, names)
    if hashed.problems:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in hashed.problems.items()))
    made = []
    for name, questions in SETS.items():
        task, _, dataset = name.partition("/")
        samples = list(questions(world))
        if task != "nafc":
            samples = chosen(samples, KEPT, lambda one: one.id, SEED, name)
        ranked = tuple(one.file for one in ask.gallery(world)) if task == "ir" else ()
        used = {file: hashed.hashes[file] for file in (*(n for s in samples for n in s.images), *ranked)}
        notes = (NOTES[""], *([NOTES[name]] if name in NOTES else []))
        manifest = Manifest(dataset, samples[0].task, "test", SEED, tuple(samples), ranked, used, notes=notes)
        made.append(write_manifest(manifest, out / f"{task}__{dataset}.jsonl"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the small UniSim-Bench of eval/data/unisim.")
    parser.add_argument("--images", type=Path, default=Path("eval/data/images"), help="the shipped pictures")
    parser.add_argument("--out", type=Path, default=Path("eval/data/unisim"), help="folder to write")
    arguments = parser.parse_args()
    for manifest in make(arguments.images, arguments.out):
        print(f"{manifest.task}/{manifest.dataset}: {len(manifest.samples)} questions")


if __name__ == "__main__":
    main()
