"""Questions about pocket pictures: frozen by their seed, apart between splits, and rightly answered."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from eval.unisim.manifest import Manifest, read_manifest
from pocket.pool import is_reserved
from pocket.unisim_tasks import SETS, manifest_name
from pocket.unisim_world import SEEN, UNSEEN, World
from tests.reward.unisim_questions import drawn_subjects, write_questions

NAMES = ("severity", "scene", "whole", "place", "treatment", "ladder", "odd", "among", "sharpness")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions"), 20, 20, *NAMES)


def manifests(folder: Path, split: str) -> list[Manifest]:
    return [read_manifest(file) for file in sorted(folder.glob(f"{split}/*.jsonl"))]


def test_the_same_seed_writes_the_same_manifests(folder: Path, tmp_path: Path):
    write_questions(tmp_path, 20, 20, "severity", "among")
    for file in tmp_path.glob("*/*.jsonl"):
        assert file.read_bytes() == (folder / file.parent.name / file.name).read_bytes()


def test_train_and_test_share_no_picture_and_no_caption(folder: Path):
    train, test = (manifests(folder, split) for split in ("train", "test"))
    assert not {h for m in train for h in m.hashes.values()} & {h for m in test for h in m.hashes.values()}
    captions = [
        {text for m in given if m.dataset != "treatment" for s in m.samples for text in s.texts}
        for given in (train, test)
    ]
    assert not any(is_reserved(text) for text in captions[0])
    assert all(is_reserved(text) for text in captions[1])


def test_every_picture_is_the_one_that_its_manifest_has_a_hash_of(folder: Path):
    for manifest in manifests(folder, "test"):
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest.names}
        assert found == dict(manifest.hashes)


def test_no_choice_is_right_more_often_than_the_other(tmp_path: Path):
    write_questions(tmp_path, 0, 200, "sharpness")
    labels = [sample.label for sample in manifests(tmp_path, "test")[0].samples]
    assert 70 <= labels.count(1) <= 130


def test_what_is_never_trained_has_no_training_questions(folder: Path):
    names = {file.name for file in folder.glob("train/*.jsonl")}
    assert names == {manifest_name(name) for name in NAMES if SETS[name].trained}
    assert not set(SEEN) & set(UNSEEN)


def test_the_closer_picture_is_closer_and_the_odd_one_odd():
    world = World(drawn_subjects(), reserved=True, seed=0)
    closer = 0
    for _ in range(20):
        reference, close, far = (image.astype(float) for image in SETS["severity"].ask(world).images)
        closer += np.abs(reference - close).mean() < np.abs(reference - far).mean()
    assert closer >= 17  # pixels alone say it nearly always; the filters of `downscale` are drawn
    scenes = world.scenes("background", "layout")
    assert len({scene.subject for scene in scenes}) == 1
    assert scenes[0].background != scenes[1].background == scenes[2].background
