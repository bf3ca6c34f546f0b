"""Readers of Img-2AFC: which answer is right, and what is left out with which reason."""

from pathlib import Path

import numpy as np
import pytest

from eval.unisim.manifest import Manifest
from eval.unisim.prepare import prepare
from eval.unisim.samples import Sample
from tests.eval.unisim import worlds


def _reasons(manifest: Manifest) -> list[str]:
    return [f"{row.where}: {row.reason}" for row in manifest.left_out]


def _by_id(manifest: Manifest) -> dict[str, Sample]:
    return {sample.id: sample for sample in manifest.samples}


def _right(sample: Sample) -> str:
    """The file name of the picture that is the right answer."""
    offset = 1 if sample.task == "img_2afc" else 0
    assert sample.label is not None
    return sample.images[offset + sample.label].rpartition("/")[2]


def test_nights_asks_what_six_people_agree_on(tmp_path: Path) -> None:
    worlds.nights(tmp_path)
    manifest = prepare("img_2afc/nights", tmp_path, tmp_path / "out")
    assert [(sample.id, sample.label) for sample in manifest.samples] == [(str(i), i % 2) for i in range(6)]
    images = ("nights/ref/000/001.png", "nights/distort/000/001_0.png", "nights/distort/000/001_1.png")
    assert manifest.samples[1].images == images
    assert manifest.notes[0].startswith("1 triplets with fewer than 6 votes") and manifest.left_out == ()


@pytest.mark.parametrize(
    ("split", "ids"),
    [("train", ["7"]), ("test_imagenet", ["0", "1", "2", "3"]), ("test_no_imagenet", ["4", "5"])],
)
def test_nights_has_splits(split: str, ids: list[str], tmp_path: Path) -> None:
    worlds.nights(tmp_path)
    manifest = prepare("img_2afc/nights", tmp_path, tmp_path / "out", split=split)
    assert [sample.id for sample in manifest.samples] == ids and manifest.split == split


def test_nights_names_bad_rows(tmp_path: Path) -> None:
    worlds.nights(tmp_path)
    row = worlds.nights_row
    rows = [
        row(0, 0),
        row(0, 1),
        row(1, 1),
        row(1, "0.5"),
        row(2, 1, votes="many"),
        row(9, 1),
        row(3, 0)[:-1],
    ]
    worlds.table(tmp_path, "nights/data.csv", worlds.NIGHTS, rows)
    manifest = prepare("img_2afc/nights", tmp_path, tmp_path / "out")
    assert [sample.id for sample in manifest.samples] == ["0", "1"]
    rule = "there must be an id, a number of votes, and 0 or 1"
    assert _reasons(manifest) == [
        "data.csv, line 3: repeats id 0 of data.csv, line 2",
        f"data.csv, line 5: id '1', votes '8', right_vote '0.5'; {rule}",
        f"data.csv, line 6: id '2', votes 'many', right_vote '1'; {rule}",
        "data.csv, line 7: nights/ref/000/009.png: missing",
        "data.csv, line 8: has not as many cells as the first line",
    ]


def test_a_table_without_a_column_says_which_there_are(tmp_path: Path) -> None:
    worlds.table(tmp_path, "nights/data.csv", ("id", "votes"), [])
    with pytest.raises(ValueError, match=r"data\.csv: no column 'right_vote'; there are id, votes"):
        prepare("img_2afc/nights", tmp_path, tmp_path / "out")
    (tmp_path / "nights/data.csv").write_bytes(b"id,\xff\xfe")
    with pytest.raises(ValueError, match="not a CSV file"):
        prepare("img_2afc/nights", tmp_path, tmp_path / "out")


def test_bapps_takes_the_first_of_each_kind_and_leaves_ties_out(tmp_path: Path) -> None:
    worlds.bapps(tmp_path)
    for kind, share in (("cnn", 0.5), ("color", 1.5)):
        worlds.judge(tmp_path, f"bapps/val/{kind}/judge/000001.npy", share)
    (tmp_path / "bapps/val/deblur/p1/000000.png").unlink()
    np.save(tmp_path / "bapps/val/deblur/judge/000001.npy", np.array([{}], dtype=object), allow_pickle=True)
    manifest = prepare("img_2afc/bapps", tmp_path, tmp_path / "out")
    # int(10 * 0.15) + 1 of each of six kinds, by name; 0.2 of the votes are for the second patch, then all
    whole = [(f"{kind}/00000{i}", i) for kind in ("frameinterp", "superres", "traditional") for i in (0, 1)]
    assert [(s.id, s.label) for s in manifest.samples] == [("cnn/000000", 0), ("color/000000", 0), *whole]
    reasons = _reasons(manifest)
    assert len(reasons) == manifest.left_out_count == 4
    assert reasons[0].endswith("a tie: both patches have half of the votes")
    assert "1.5; it must be a share" in reasons[1] and reasons[2].endswith("p1/000000.png: missing")
    assert "no array of numbers" in reasons[3]  # a pickle, which is not read


def test_bapps_reads_the_training_split(tmp_path: Path) -> None:
    worlds.bapps(tmp_path, "train")
    manifest = prepare("img_2afc/bapps", tmp_path, tmp_path / "out", split="train")
    assert len(manifest.samples) == 3 * (int(10 * 0.25) + 1)
    assert (tmp_path / "out/img_2afc__bapps__train.jsonl").is_file()


def test_pieapp_asks_clear_preferences(tmp_path: Path) -> None:
    worlds.pieapp(tmp_path)
    manifest = prepare("img_2afc/pieapp", tmp_path, tmp_path / "out")
    first = {key: _right(s)[-5] for key, s in _by_id(manifest).items() if key.startswith("ref_161")}
    stem = "distort_161_blur_intra_"
    pairs = {(0, 1): "0", (0, 2): "2", (2, 3): "2", (1, 3): "3"}  # shares of 0.4 and 0.6 are not asked
    assert first == {f"ref_161/{stem}{a}/{stem}{b}": right for (a, b), right in pairs.items()}
    assert manifest.samples[0].images[0] == "pie_app/reference_images/test/ref_161.png"
    assert manifest.notes[0].startswith(
        "4 pairs with a preference of 0.4 to 0.6 are not asked, nor are 2 in which"
    )


def test_pieapp_names_bad_rows_and_references(tmp_path: Path) -> None:
    worlds.pieapp(tmp_path)
    (tmp_path / "pie_app/test_reference_list.txt").write_text("ref_161.png\nref_161.png\n\nref_999.png\n")
    names = [f"distort_161_blur_intra_{k}.png" for k in range(4)]
    rows = [
        ("ref_161.png", names[0], names[1], 0.7),
        ("ref_161.png", names[1], names[0], 0.2),
        ("ref_161.png", names[2], names[2], 0.2),
        ("ref_161.png", names[2], "gone.png", 0.2),
        ("ref_161.png", names[2], names[3], "?"),
        ("ref_161.png", names[2], names[3], 7),
        ("ref_161.png", names[2]),
    ]
    worlds.table(tmp_path, "pie_app/labels/test/ref_161_pairwise_labels.csv", worlds.PIEAPP, rows)
    manifest = prepare("img_2afc/pieapp", tmp_path, tmp_path / "out")
    assert len(manifest.samples) == 1 and manifest.left_out_count == 8
    text = "\n".join(_reasons(manifest))
    for part in (
        "line 2: repeats ref_161",
        "ref_999: pie_app/labels/test/ref_999_pairwise_labels.csv: missing",
        "line 3: repeats the pair of ref_161_pairwise_labels.csv, line 2",
        "line 4: repeats the pair of itself",
        "gone.png: missing",
        "preference for A is '?'",
        "preference for A is '7'",
        "not as many cells",
    ):
        assert part in text


def test_pieapp_trains_on_processed_preferences(tmp_path: Path) -> None:
    worlds.pieapp(tmp_path)
    manifest = prepare("img_2afc/pieapp", tmp_path, tmp_path / "out", split="train")
    assert [sample.label for sample in manifest.samples] == [0]


def test_pieapp_quality_asks_each_distorted_picture_once(tmp_path: Path) -> None:
    worlds.pieapp(tmp_path)
    manifest = prepare("iqa/pieapp", tmp_path, tmp_path / "out")
    assert len(manifest.samples) == 8 and {_right(s) for s in manifest.samples} == {
        "ref_161.png",
        "ref_162.png",
    }
