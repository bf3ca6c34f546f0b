"""Make manifests out of data sets on disk, each once: what is there and valid is kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.unisim.datasets import DATASETS, task_of
from eval.unisim.hashes import hash_pictures
from eval.unisim.manifest import Manifest, bounded, read_manifest, write_manifest
from eval.unisim.readers import READERS
from eval.unisim.reading import Ask, Drawn

#: File below the output folder that remembers the hashes of pictures.
CACHE = ".hashes.json"
_log = logging.getLogger(__name__)


def prepare(
    name: str,
    root: Path,
    out: Path,
    seed: int = 0,
    count: int | None = None,
    *,
    split: str | None = None,
    again: bool = False,
) -> Manifest:
    """The manifest of a data set: `manifest_path(out, name, split)` if it is there, else made and written.

    Args:
        name: Task and data set, a key of `READERS`.
        root: The data root: the folder below which data sets lie as published.
        out: Folder of manifests.
        seed: Of what is drawn.
        count: How many questions; None: as many as `DATASETS` says for the benchmark's split, and of another
            split all, as far as they are not drawn out of countless pairs.
        split: One of the data set's; None: the benchmark's.
        again: Make it although it is there.

    Raises:
        OSError: The data set is not there; the message says how it is laid out.
        ValueError: There is no such data set or split; it cannot be read; nothing in it can be asked; or the
            file that is there was made with another seed or count.
    """
    task_of(name)
    dataset = DATASETS[name]
    split = dataset.splits[0] if split is None else split
    if split not in dataset.splits:
        raise ValueError(f"{name}: no split {split!r}; there are {', '.join(dataset.splits)}")
    if count is not None and count < 1:
        raise ValueError(f"{name}: count {count}; it must be at least 1")
    if count is None and split == dataset.splits[0]:
        count = dataset.count
    path = manifest_path(out, name, split)
    found = None if again else _existing(path, seed, count)
    if found is not None:
        return found
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; it must be the data root, with {dataset.layout} in it"
        )
    return write_manifest(_make(Ask(name, root, split, seed, count), out), path)


def make_manifests(
    names: Sequence[str],
    root: Path,
    out: Path,
    seed: int = 0,
    *,
    roots: Mapping[str, Path] | None = None,
    again: bool = False,
) -> dict[str, Manifest | str]:
    """Prepare several data sets, one after the other; what is wrong with one stops no other.

    Args:
        names: Keys of `READERS`.
        root: The data root.
        out: Folder of manifests.
        seed: Of what is drawn.
        roots: Task and data set, or data set -> a data root of its own.
        again: Make those, too, that are there.

    Returns:
        Name -> its manifest, or what is wrong.

    Raises:
        ValueError: There is no data set of such a name.
    """
    from tqdm import tqdm

    for name in names:
        task_of(name)
    own = roots or {}
    results: dict[str, Manifest | str] = {}
    with tqdm(total=len(names), desc="manifests", unit="set") as bar:
        for name in names:
            place = own.get(name, own.get(name.split("/")[1], root))
            bar.set_postfix_str(name)
            try:
                results[name] = prepare(name, place, out, seed, again=again)
            except (OSError, ValueError) as error:
                results[name] = str(error)
            bar.update()
    return results


def manifest_path(out: Path, name: str, split: str | None = None) -> Path:
    """Where the manifest of a data set lies: out/iqa__kadid.jsonl, and out/iqa__kadid__train.jsonl."""
    task, dataset = name.split("/")
    other = split is not None and split != DATASETS[name].splits[0]
    return out / (f"{task}__{dataset}__{split}.jsonl" if other else f"{task}__{dataset}.jsonl")


def _make(ask: Ask, out: Path) -> Manifest:
    """Read the data set and hash its pictures."""
    drawn = READERS[ask.key](ask)
    if not drawn.samples:
        reasons = "; ".join(f"{row.where}: {row.reason}" for row in drawn.left_out[:3]) or "it is empty"
        raise ValueError(f"{ask.key}: nothing to ask in {ask.root} ({reasons})")
    hashes = _without_broken(ask.key, drawn, ask.root, out / CACHE)
    if not drawn.samples:
        row = drawn.left_out[-1]
        raise ValueError(
            f"{ask.key}: no picture of {ask.root} can be used, such as {row.where}: {row.reason}"
        )
    named, left_out = bounded(drawn.left_out)
    return Manifest(
        dataset=ask.key.split("/")[1],
        task=task_of(ask.key),
        split=ask.split,
        seed=ask.seed,
        samples=tuple(drawn.samples),
        gallery=drawn.gallery,
        hashes=hashes,
        left_out=named,
        left_out_count=left_out,
        notes=tuple(drawn.notes),
        count=ask.count,
    )


def _existing(path: Path, seed: int, count: int | None) -> Manifest | None:
    """The manifest that is there, if it is one and is what is asked for."""
    try:
        found = read_manifest(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s; it is made again", error)
        return None
    for what, old, new in (("seed", found.seed, seed), ("count", found.count, count)):
        if old != new:
            raise ValueError(
                f"{path}: made with {what} {old if old is not None else 'all'}, and "
                f"{new if new is not None else 'all'} is asked for; a manifest is frozen: give another "
                "folder, or remove the file"
            )
    return found


def _without_broken(name: str, drawn: Drawn, root: Path, cache: Path) -> dict[str, str]:
    """Hash every picture; questions with one that cannot be read are left out, and such of the gallery."""
    names = [*(image for sample in drawn.samples for image in sample.images), *drawn.gallery]
    found = hash_pictures(root, names, cache=cache, label=f"hash {name}")
    kept = {i: place for place, i in enumerate(i for i, n in enumerate(drawn.gallery) if n in found.hashes)}
    for picture in drawn.gallery:
        if picture in found.problems:
            drawn.leave(picture, found.problems[picture])
    drawn.gallery = tuple(drawn.gallery[i] for i in kept)
    samples = []
    for sample in drawn.samples:
        broken = next((image for image in sample.images if image in found.problems), None)
        if broken is not None:
            drawn.leave(f"question {sample.id}", f"{broken}: {found.problems[broken]}")
        elif sample.task == "ir":
            lists = (
                tuple(kept[i] for i in part if i in kept) for part in (sample.easy, sample.hard, sample.junk)
            )
            easy, hard, junk = lists
            samples.append(replace(sample, easy=easy, hard=hard, junk=junk))
        else:
            samples.append(sample)
    drawn.samples = samples
    used = {image for sample in samples for image in sample.images} | set(drawn.gallery)
    return {image: value for image, value in found.hashes.items() if image in used}
