"""Manifests are made once, kept as they are, and one bad data set stops no other."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from eval.unisim.datasets import DATASETS
from eval.unisim.manifest import Manifest, read_manifest
from eval.unisim.prepare import CACHE, make_manifests, manifest_path, prepare
from tests.eval.unisim import worlds


def test_what_is_there_is_kept_and_needs_no_data(tmp_path: Path) -> None:
    worlds.kadid(tmp_path / "data")
    out = tmp_path / "out"
    first = prepare("iqa/kadid", tmp_path / "data", out)
    path = manifest_path(out, "iqa/kadid")
    assert path == out / "iqa__kadid.jsonl" and read_manifest(path) == first
    time = path.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "data")
    again = prepare("iqa/kadid", tmp_path / "data", out)
    assert again == first and again.digest == first.digest and path.stat().st_mtime_ns == time


def test_a_manifest_is_frozen(tmp_path: Path) -> None:
    worlds.kadid(tmp_path)
    out = tmp_path / "out"
    first = prepare("iqa/kadid", tmp_path, out, count=5)
    for seed, count, message in (
        (1, 5, "made with seed 0, and 1 is"),
        (0, None, "made with count 5, and all is"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare("iqa/kadid", tmp_path, out, seed, count)
    assert read_manifest(manifest_path(out, "iqa/kadid")) == first
    assert len(prepare("iqa/kadid", tmp_path, out, 1, 6, again=True).samples) == 6
    with pytest.raises(FileNotFoundError):
        prepare("iqa/kadid", tmp_path / "nowhere", out, 2, again=True)
    assert read_manifest(manifest_path(out, "iqa/kadid")).seed == 1


def test_a_damaged_manifest_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worlds.kadid(tmp_path)
    first = prepare("iqa/kadid", tmp_path, tmp_path / "out")
    path = manifest_path(tmp_path / "out", "iqa/kadid")
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert prepare("iqa/kadid", tmp_path, tmp_path / "out").digest == first.digest
    assert "cut off within a line" in caplog.text and "made again" in caplog.text


def test_splits_lie_beside_each_other(tmp_path: Path) -> None:
    worlds.kadid(tmp_path)
    test = prepare("iqa/kadid", tmp_path, tmp_path / "out")
    train = prepare("iqa/kadid", tmp_path, tmp_path / "out", split="train")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.jsonl"))
    assert names == ["iqa__kadid.jsonl", "iqa__kadid__train.jsonl"]
    assert {test.split, train.split} == {"test", "train"}
    assert not {n for s in test.samples for n in s.images} & {n for s in train.samples for n in s.images}


def test_the_default_count_is_of_the_benchmark_and_its_split(tmp_path: Path) -> None:
    worlds.hq_edit(tmp_path)
    shutil.copy(tmp_path / "HQ-Edit/test.json", tmp_path / "HQ-Edit/train.json")
    assert (
        prepare("it_2afc/hq_edit", tmp_path, tmp_path / "out").count
        == DATASETS["it_2afc/hq_edit"].count
        == 2000
    )
    assert prepare("it_2afc/hq_edit", tmp_path, tmp_path / "out", split="train").count is None
    assert prepare("it_2afc/hq_edit", tmp_path, tmp_path / "few", count=3).count == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iqa/nights", {}, "no data set 'iqa/nights'; there are img_2afc/nights, "),
        ("iqa/kadid", {"split": "val"}, "iqa/kadid: no split 'val'; there are test, train"),
        ("iqa/kadid", {"count": 0}, "iqa/kadid: count 0; it must be at least 1"),
    ],
)
def test_what_there_is_not_is_an_error(
    name: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(name, tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_a_data_set_of_which_nothing_can_be_asked_is_an_error(tmp_path: Path) -> None:
    worlds.table(tmp_path, "nights/data.csv", worlds.NIGHTS, [worlds.nights_row(0, 1)])
    with pytest.raises(ValueError, match=r"nothing to ask in .*line 2: nights/ref/000/000.png: missing"):
        prepare("img_2afc/nights", tmp_path, tmp_path / "out")
    for name in ("ref/000/000.png", "distort/000/000_0.png", "distort/000/000_1.png"):
        (tmp_path / "nights" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nights" / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no picture of .* can be used, such as question 0: .*damaged"):
        prepare("img_2afc/nights", tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_one_bad_data_set_stops_no_other(tmp_path: Path) -> None:
    worlds.kadid(tmp_path / "data")
    worlds.nights(tmp_path / "elsewhere")
    names = ["iqa/kadid", "iqa/koniq", "text_2afc/polaris", "img_2afc/nights"]
    (tmp_path / "data/polaris").mkdir()
    (tmp_path / "data/polaris/polaris_test.csv").write_text("")
    roots = {"nights": tmp_path / "elsewhere"}
    results = make_manifests(names, tmp_path / "data", tmp_path / "out", roots=roots)
    assert list(results) == names
    kadid, koniq, polaris, nights = results.values()
    assert isinstance(kadid, Manifest) and isinstance(nights, Manifest)
    assert "koniq10k_distributions_sets.csv: no such file; KonIQ-10K is expected below" in str(koniq)
    assert "nothing to ask" in str(polaris)
    with pytest.raises(ValueError, match="no data set 'kadid'"):
        make_manifests(["iqa/kadid", "kadid"], tmp_path / "data", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_pictures_are_hashed_once_for_all_manifests(tmp_path: Path) -> None:
    worlds.agiqa(tmp_path)
    prepare("it_2afc/agiqa", tmp_path, tmp_path / "out")
    prepare("iqa/agiqa", tmp_path, tmp_path / "out")
    remembered = json.loads((tmp_path / "out" / CACHE).read_text())
    assert sorted(Path(name).name for name in remembered) == [
        f"sd1.5_{p}_{k}.jpg" for p in range(3) for k in range(4)
    ]
