"""What holds for every reader: on a miniature of each data set, laid out as it is published."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.unisim.datasets import DATASETS
from eval.unisim.hashes import check_pictures
from eval.unisim.manifest import Manifest
from eval.unisim.prepare import manifest_path, prepare
from eval.unisim.readers import READERS
from tests.eval.unisim.miniatures import WORLDS

#: Those where nothing is drawn: the data set fixes questions and order.
FIXED = {"img_2afc/nights", "img_2afc/bapps", "img_2afc/pieapp", "it_2afc/hq_edit", "text_2afc/hq_edit",
         "ir/roxford", "ir/rparis"}  # fmt: skip
#: So many questions are asked for where there would be more than a test needs.
COUNT = {"ooo/cifar100": 30, "ooo/imagenet": 30, **{f"nafc/hpdv2_{n}": 9 for n in range(2, 9)}}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The data root of a miniature, made once."""
    made: dict[Any, Path] = {}

    def world(key: str) -> Path:
        if WORLDS[key] not in made:
            made[WORLDS[key]] = tmp_path_factory.mktemp("world")
            WORLDS[key](made[WORLDS[key]])
        return made[WORLDS[key]]

    return world


def _made(key: str, root: Path, out: Path, seed: int = 0) -> tuple[Manifest, bytes]:
    manifest = prepare(key, root, out, seed, COUNT.get(key))
    return manifest, manifest_path(out, key).read_bytes()


def test_every_data_set_has_a_reader_and_a_miniature() -> None:
    assert list(READERS) == list(DATASETS) == list(WORLDS)
    groups = [dataset.group for dataset in DATASETS.values()]
    assert groups.count("core") + groups.count("ood") == 25  # those of the paper


@pytest.mark.parametrize("key", READERS)
def test_a_manifest_has_questions_with_pictures_that_are_there(
    key: str, worlds: Callable[[str], Path], tmp_path: Path
) -> None:
    root = worlds(key)
    manifest, _ = _made(key, root, tmp_path)
    assert f"{manifest.task}/{manifest.dataset}" == key and manifest.split == DATASETS[key].splits[0]
    assert manifest.samples and set(manifest.hashes) == set(manifest.names)
    assert check_pictures(manifest, root) == {}
    assert manifest.notes
    other, _ = _made(key, root, tmp_path / "other", seed=1)
    if manifest.task != "ir":  # the right answer must not always have one place
        assert len({sample.label for sample in (*manifest.samples, *other.samples)}) > 1


@pytest.mark.parametrize("key", READERS)
def test_the_order_of_a_folder_does_not_matter(
    key: str, worlds: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = _made(key, worlds(key), tmp_path / "one")
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(real(path), key=lambda name: name[::-1])[::-1])
    _, other = _made(key, worlds(key), tmp_path / "two")
    assert first == other


@pytest.mark.parametrize("key", READERS)
def test_the_seed_changes_what_is_drawn_and_nothing_else(
    key: str, worlds: Callable[[str], Path], tmp_path: Path
) -> None:
    first, content = _made(key, worlds(key), tmp_path / "0")
    again, same = _made(key, worlds(key), tmp_path / "again")
    other, _ = _made(key, worlds(key), tmp_path / "1", seed=1)
    assert same == content and again.digest == first.digest != other.digest
    assert (first.samples == other.samples) == (key in FIXED)


@pytest.mark.parametrize("key", READERS)
def test_a_missing_data_set_is_one_error_that_says_how_it_is_laid_out(key: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for root in (tmp_path / "root", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError) as caught:
            prepare(key, root, tmp_path / "out")
        assert DATASETS[key].layout in str(caught.value) and str(root) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", [key for key in READERS if not key.startswith(("ooo", "ir", "paa/sice"))])
def test_a_missing_picture_costs_the_questions_about_it(key: str, tmp_path: Path) -> None:
    """With as many questions as there are, the others stay as they were, in the order they had."""
    WORLDS[key](tmp_path / "root")
    everything = prepare(key, tmp_path / "root", tmp_path / "before", count=10**4)
    gone = everything.samples[0].images[-1]
    (tmp_path / "root" / gone).unlink()
    rest = prepare(key, tmp_path / "root", tmp_path / "after", count=10**4)
    assert any(gone in f"{row.where} {row.reason}" for row in rest.left_out)
    assert rest.left_out_count > everything.left_out_count
    assert list(rest.samples) == [sample for sample in everything.samples if gone not in sample.images]


@pytest.mark.parametrize("key", ["iqa/kadid", "it_2afc/hpdv2", "ooo/cifar100", "ir/roxford"])
def test_a_picture_that_cannot_be_decoded_costs_the_questions_about_it(key: str, tmp_path: Path) -> None:
    WORLDS[key](tmp_path / "root")
    before = prepare(key, tmp_path / "root", tmp_path / "before", count=30)
    broken = before.samples[0].images[0]
    shutil.copy(Path(__file__), tmp_path / "root" / broken)
    after = prepare(key, tmp_path / "root", tmp_path / "after", count=30)
    if key == "ooo/cifar100":
        assert after.samples == before.samples  # it is written again
    else:
        assert list(after.samples) == [sample for sample in before.samples if broken not in sample.images]
        assert any(broken in row.reason and "damaged" in row.reason for row in after.left_out)
