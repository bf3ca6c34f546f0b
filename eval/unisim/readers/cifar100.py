"""CIFAR-100: two pictures of one of 20 coarse classes, and one of another (Krizhevsky 2009).

The published batches are pickles, which are read without running anything in them. Their pictures are written
out beside them as cifar-100-pictures/SPLIT/00000.bmp: BMP, since its bytes, and so a manifest's hashes,
depend on no version of a compressor.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.unisim.draw import triplets
from eval.unisim.plain_pickle import read_plain_pickle
from eval.unisim.reading import Ask, Drawn
from eval.unisim.samples import Sample

if TYPE_CHECKING:
    import numpy as np


def cifar100(ask: Ask) -> Drawn:
    """Which of three pictures is of another class."""
    drawn = Drawn()
    path = ask.file(f"cifar-100-python/{ask.split}")
    pixels, classes = _batch(path)
    folder = f"cifar-100-pictures/{ask.split}"
    groups: dict[str, list[list[str]]] = {}
    for index, group in enumerate(classes):
        groups.setdefault(f"{group:02d}", [[]])[0].append(f"{folder}/{index:05d}.bmp")
    count = ask.count if ask.count is not None else ask.dataset.count
    assert count is not None
    for turn, (images, label) in enumerate(triplets(groups, count, ask.seed, "cifar100")):
        drawn.samples.append(Sample(f"{turn:05d}", "ooo", images, label=label))
    _write(ask.root, drawn, pixels)
    drawn.notes.append(
        "Classes, pictures and the place of the odd one are drawn from the seed; the three pictures "
        "differ, and no triplet comes twice. The published code draws anew at each look, and may show a "
        "picture twice."
    )
    return drawn


def _batch(path: Path) -> tuple[np.ndarray, list[int]]:
    """Pixels [N, 32, 32, 3] in 0 to 255, and coarse classes [N] in 0 to 19."""
    import numpy as np

    batch: Any = read_plain_pickle(path)
    data = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("coarse_labels") if isinstance(batch, dict) else None
    if (
        not isinstance(data, np.ndarray)
        or not isinstance(labels, list)
        or data.dtype != np.uint8
        or data.shape != (len(labels), 3072)
        or not all(isinstance(label, int) and 0 <= label < 20 for label in labels)
    ):
        raise ValueError(
            f"{path}: no batch of CIFAR-100; it must have data of N times 3072 bytes and N coarse_labels "
            "from 0 to 19"
        )
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _write(root: Path, drawn: Drawn, pixels: np.ndarray) -> None:
    """Write the pictures that are asked about, those that are not there yet."""
    from PIL import Image
    from tqdm import tqdm

    names = sorted({name for sample in drawn.samples for name in sample.images})
    for name in tqdm(names, desc="write CIFAR-100", unit="file"):
        content = BytesIO()
        Image.fromarray(pixels[int(Path(name).stem)]).save(content, format="bmp")
        target = root / name
        try:
            if target.is_file() and target.read_bytes() == content.getvalue():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            beside.write_bytes(content.getvalue())
            os.replace(beside, target)
        except OSError as error:
            raise OSError(
                f"{target}: cannot be written ({error.strerror}); the pictures of CIFAR-100 are written out "
                "below the data root: make it writable once, or give a root of its own that has "
                "cifar-100-python"
            ) from error
