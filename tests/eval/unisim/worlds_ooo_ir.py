"""Miniatures of the data sets of odd ones out and of retrieval, with files named and shaped as published."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.eval.unisim.worlds import picture


def cifar100(root: Path) -> None:
    labels = [index % 20 for index in range(60)]
    data = bytes(
        (index * 4 + channel) % 256 for index in range(60) for channel in range(3) for _ in range(1024)
    )
    (root / "cifar-100-python").mkdir(parents=True)
    for split in ("test", "train"):
        (root / f"cifar-100-python/{split}").write_bytes(batch_of_python2(data, labels))


def batch_of_python2(data: bytes, labels: Sequence[int]) -> bytes:
    """Such bytes of Python 2 as CIFAR's batches are: texts without encoding, and an array's data as one."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85"
        + text(b"b") + b"tR("
        + number(1) + number(len(labels)) + number(3072) + b"\x86"
        + b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
        + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        + b"\x89" + text(data) + b"tb"
    )  # fmt: skip
    coarse = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"coarse_labels") + coarse + b"u."


def imagenet(root: Path) -> None:
    wnids = ["n01440764", *(f"n{2000000 + i:08d}" for i in range(998)), "n15075141"]
    for wnid in wnids:
        (root / "imagenet/val" / wnid).mkdir(parents=True)
    for index in (0, 7, 400, 404, 978, 401):
        for number in range(3):
            picture(root, f"imagenet/val/{wnids[index]}/ILSVRC2012_val_{index:05d}{number:03d}.JPEG")


def revisited(root: Path, folder: str) -> None:
    base = f"retrieval/revisitop/{folder}"
    gallery = [f"all_souls_{i:06d}" for i in range(6)]
    queries = ["radcliffe_000001", "christ_000002"]
    truth = [
        {"bbx": [1.0, 2.0], "easy": [4, 0], "hard": [1], "junk": [2]},
        {
            "bbx": [1.0, 2.0, 3.5, 4.0],
            "easy": np.array([5]),
            "hard": np.array([3, 0]),
            "junk": np.array([], int),
        },
    ]
    for name in (*gallery, *queries):
        picture(root, f"{base}/jpg/{name}.jpg")
    content = pickle.dumps({"imlist": gallery, "qimlist": queries, "gnd": truth}, protocol=2)
    (root / base / f"gnd_{folder}.pkl").write_bytes(content)
