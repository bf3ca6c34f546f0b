"""Readers of odd ones out and retrieval: which answer is right, and what is left out with which reason."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.unisim.manifest import Manifest
from eval.unisim.prepare import prepare
from eval.unisim.samples import Sample
from tests.eval.unisim import worlds_ooo_ir

RESOURCES = "coco-triplets/resources"


def _reasons(manifest: Manifest) -> list[str]:
    return [f"{row.where}: {row.reason}" for row in manifest.left_out]


def _right(sample: Sample) -> str:
    assert sample.label is not None
    return sample.texts[sample.label] if sample.texts else sample.images[sample.label].rpartition("/")[2]


def test_cifar_shows_the_pictures_of_the_published_batches(tmp_path: Path) -> None:
    worlds_ooo_ir.cifar100(tmp_path)
    manifest = prepare("ooo/cifar100", tmp_path, tmp_path / "out", count=50)
    assert len(manifest.samples) == 50
    for sample in manifest.samples:
        classes = [int(name[-9:-4]) % 20 for name in sample.images]
        odd = classes.pop(sample.label or 0)
        assert classes[0] == classes[1] != odd
    name = manifest.samples[0].images[0]
    index = int(name[-9:-4])
    with Image.open(tmp_path / name) as image:
        pixels = np.asarray(image)
    assert (
        pixels.shape == (32, 32, 3)
        and (pixels == [(index * 4 + channel) % 256 for channel in range(3)]).all()
    )


@pytest.mark.parametrize(
    "batch",
    [
        [],
        {"data": np.zeros((2, 3072), np.uint8), "coarse_labels": [1]},
        {"data": np.zeros((1, 3072), np.uint8), "coarse_labels": [20]},
        {"data": np.zeros((1, 3072)), "coarse_labels": [1]},
    ],
)
def test_another_pickle_is_no_batch(batch: object, tmp_path: Path) -> None:
    worlds_ooo_ir.cifar100(tmp_path)
    (tmp_path / "cifar-100-python/test").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match="cifar-100-python/test: no batch of CIFAR-100"):
        prepare("ooo/cifar100", tmp_path, tmp_path / "out")


def test_imagenet_needs_all_classes_and_counts_pictures(tmp_path: Path) -> None:
    worlds_ooo_ir.imagenet(tmp_path)
    manifest = prepare("ooo/imagenet", tmp_path, tmp_path / "out", count=50)
    groups = {0: "aquatic", 7: "terrestrial", 400: "clothes", 404: "transport", 978: "places", 401: "music"}
    for sample in manifest.samples:
        kinds = [groups[int(image[-13:-8])] for image in sample.images]
        odd = kinds.pop(sample.label or 0)
        assert kinds[0] == kinds[1] != odd and len(set(sample.images)) == 3
    assert {groups[int(image[-13:-8])] for s in manifest.samples for image in s.images} == set(
        groups.values()
    )
    assert "3 pictures; the published val has 50" in manifest.left_out[0].reason
    (tmp_path / "imagenet/val/n15075141").rename(tmp_path / "imagenet/val/n15075142")
    with pytest.raises(
        FileNotFoundError, match=r"1000 folders, n01440764 to n15075142, where 1000 are needed"
    ):
        prepare("ooo/imagenet", tmp_path, tmp_path / "other")


@pytest.mark.parametrize(("key", "folder"), [("ir/roxford", "roxford5k"), ("ir/rparis", "rparis6k")])
def test_revisited_sets_have_queries_and_a_gallery(key: str, folder: str, tmp_path: Path) -> None:
    worlds_ooo_ir.revisited(tmp_path, folder)
    manifest = prepare(key, tmp_path, tmp_path / "out")
    base = f"retrieval/revisitop/{folder}/jpg"
    assert manifest.gallery == tuple(f"{base}/all_souls_{i:06d}.jpg" for i in range(6))
    first, second = manifest.samples
    assert (first.images, first.easy, first.hard, first.junk) == (
        (f"{base}/radcliffe_000001.jpg",),
        (0, 4),
        (1,),
        (2,),
    )
    assert (second.id, second.easy, second.hard, second.junk) == ("christ_000002", (5,), (0, 3), ())


def test_a_gap_in_the_gallery_moves_indices(tmp_path: Path) -> None:
    worlds_ooo_ir.revisited(tmp_path, "roxford5k")
    base = tmp_path / "retrieval/revisitop/roxford5k/jpg"
    (base / "all_souls_000000.jpg").unlink()
    (base / "all_souls_000003.jpg").write_bytes(b"no picture")  # is found later, when it is hashed
    manifest = prepare("ir/roxford", tmp_path, tmp_path / "out")
    assert [name[-5] for name in manifest.gallery] == ["1", "2", "4", "5"]
    first, second = manifest.samples
    assert (first.easy, first.hard, first.junk) == ((2,), (0,), (1,)) and (second.easy, second.hard) == (
        (3,),
        (),
    )
    assert manifest.left_out_count == 2 and "not comparable with published ones" in manifest.notes[1]


def test_revisited_sets_name_bad_queries(tmp_path: Path) -> None:
    worlds_ooo_ir.revisited(tmp_path, "roxford5k")
    good = {"easy": [0], "hard": [], "junk": []}
    gnd = [
        good,
        good,
        {**good, "hard": [0]},
        {**good, "easy": [6]},
        {"easy": [0]},
        {**good, "junk": ["x"]},
        good,
        {**good, "easy": np.array([float("nan")])},
        {**good, "easy": [0.5]},
    ]
    queries = ["christ_000002", *["radcliffe_000001"] * 5, "gone", *["radcliffe_000001"] * 2]
    gallery = [f"all_souls_{i:06d}" for i in range(6)]
    path = tmp_path / "retrieval/revisitop/roxford5k/gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps({"imlist": gallery, "qimlist": queries, "gnd": gnd}))
    manifest = prepare("ir/roxford", tmp_path, tmp_path / "out")
    assert [sample.id for sample in manifest.samples] == ["christ_000002", "radcliffe_000001"]
    assert [row.where for row in manifest.left_out] == [f"qimlist, {i}" for i in range(2, 9)]
    path.write_bytes(pickle.dumps({"imlist": gallery, "qimlist": queries[:2], "gnd": gnd}))
    with pytest.raises(ValueError, match="lists of 6, 2 and 9"):
        prepare("ir/roxford", tmp_path, tmp_path / "other")
