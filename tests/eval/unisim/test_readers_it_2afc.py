"""Readers of IT-2AFC and NAFC: which answer is right, and what is left out with which reason."""

import json
from pathlib import Path

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


def test_imagereward_asks_first_against_last_of_a_prompt(tmp_path: Path) -> None:
    worlds.imagereward(tmp_path)
    manifest = prepare("it_2afc/imagereward", tmp_path, tmp_path / "out")
    # part 2 comes before part 10
    assert [sample.id for sample in manifest.samples] == [f"{n:06d}-0001" for n in (1, 2, 3, 4, 5)]
    for number, sample in enumerate(manifest.samples, start=1):
        assert _right(sample) == f"{number}-1.webp" and sample.texts == (f"prompt {number}",)
        assert {image.rpartition("/")[2] for image in sample.images} == {
            f"{number}-1.webp",
            f"{number}-4.webp",
        }


def test_imagereward_names_bad_prompts(tmp_path: Path) -> None:
    worlds.imagereward(tmp_path)
    row = worlds.reward_row
    rows = [
        row(2, 1, 2),
        {**row(2, 1, 1), "rank": 2},
        row(2, 2, 1),
        row(2, 3, 1),
        {**row(2, 3, 2), "prompt": "?"},
        {**row(2, 4, 1), "rank": "best"},
        row(2, 5, 1),
        row(2, 5, 9),
        row(2, 6, 4),
        row(2, 6, 2),
        "text",
    ]
    part = "ImageRewardDB/images/validation/validation_2/validation_2.json"
    for name in ("3-1", "3-2", "6-4", "6-2"):
        worlds.picture(tmp_path, f"ImageRewardDB/images/validation/validation_2/{name}.webp")
    worlds.listing(tmp_path, part, rows)
    worlds.listing(tmp_path, "ImageRewardDB/images/validation/validation_10/validation_10.json", [])
    manifest = prepare("it_2afc/imagereward", tmp_path, tmp_path / "out")
    assert [(sample.id, _right(sample)) for sample in manifest.samples] == [("000006-0001", "6-2.webp")]
    reasons = _reasons(manifest)
    assert reasons == [
        "validation_2.json, entry 5: lacks image_path, prompt_id, prompt or a rank that is a number",
        "validation_2.json, entry 10: no JSON object",
        "prompt 000001-0001: a tie: first and last picture have rank 2",
        "prompt 000002-0001: has one picture only",
        "prompt 000003-0001: its rows have different prompts",
        "prompt 000005-0001: ImageRewardDB/images/validation/validation_2/5-1.webp: missing",
    ]


def test_imagereward_says_when_archives_are_still_packed(tmp_path: Path) -> None:
    worlds.listing(tmp_path, "ImageRewardDB/images/validation/validation_1.zip", [])
    with pytest.raises(FileNotFoundError, match="unpack each archive into one of its name"):
        prepare("it_2afc/imagereward", tmp_path, tmp_path / "out")


def test_hpdv2_prefers_the_lowest_rank_and_draws_evenly(tmp_path: Path) -> None:
    worlds.hpdv2(tmp_path)
    ranks = {f"{i:05d}{place}.jpg": (place * 2 + i) % 9 + 1 for i in range(3) for place in range(9)}
    for key, size in (("it_2afc/hpdv2", 2), ("nafc/hpdv2_2", 2), ("nafc/hpdv2_5", 5), ("nafc/hpdv2_8", 8)):
        manifest = prepare(key, tmp_path, tmp_path / "out", count=15)
        prompts = [sample.texts[0] for sample in manifest.samples]
        assert [prompts.count(f"prompt {i}") for i in range(3)] == [5, 5, 5]
        for sample in manifest.samples:
            names = [image.rpartition("/")[2] for image in sample.images]
            assert len(names) == size and _right(sample) == min(names, key=ranks.__getitem__)
    assert len(prepare("nafc/hpdv2_8", tmp_path, tmp_path / "all").samples) == 27  # 9 over 8, three times


def test_hpdv2_names_ties_and_bad_entries(tmp_path: Path) -> None:
    worlds.hpdv2(tmp_path)
    good = worlds.hpdv2_row(0, [1, 2, 2])
    corrupt = {**worlds.hpdv2_row(1, [1, 2]), "image_path": ["000010.jpg", "00168743.jpg"]}
    odd = {**good, "image_path": ["\ud800.jpg", "000000.jpg", "\0"]}
    rows = [
        good,
        corrupt,
        {**good, "rank": [1, 2]},
        {**good, "rank": [1, 2, None]},
        {**good, "prompt": " "},
        [],
        {**good, "image_path": ["000000.jpg", "000000.jpg", "../train/0a.jpg"]},
        odd,
    ]
    worlds.listing(tmp_path, "hpdv2/test.json", rows)
    manifest = prepare("it_2afc/hpdv2", tmp_path, tmp_path / "out")
    assert [sample.id for sample in manifest.samples] == ["0000/0-1", "0000/0-2"]
    reasons = _reasons(manifest)
    assert "1 ties: sets of 2" in reasons[0] and "published as corrupt" in reasons[1]
    assert [reason.split(": ")[0] for reason in reasons] == [
        f"test.json, entry {i}" for i in (0, 1, 2, 3, 4, 5, 6, 6, 7, 7)
    ]
    assert "repeats hpdv2/test/000000.jpg" in reasons[6] and "without .." in reasons[7]
    assert "a name must be Unicode" in reasons[8] and "without .." in reasons[9]
    (tmp_path / "hpdv2/test.json").write_text("{}")
    with pytest.raises(ValueError, match=r"test\.json: holds a dict; it must be a list"):
        prepare("it_2afc/hpdv2", tmp_path, tmp_path / "other")


def test_hpdv2_trains_on_pairs(tmp_path: Path) -> None:
    worlds.hpdv2(tmp_path)
    entries = json.loads((tmp_path / "hpdv2/train.json").read_text())
    entries += [{**entries[0], "human_preference": [1, 1]}, {**entries[0], "human_preference": [1]}]
    entries += [{**entries[0], "human_preference": value} for value in (None, ["1", {}], [1, "many"])]
    worlds.listing(tmp_path, "hpdv2/train.json", entries)
    manifest = prepare("it_2afc/hpdv2", tmp_path, tmp_path / "out", split="train")
    assert [_right(sample) for sample in manifest.samples] == [
        f"{i}{'a' if i % 2 else 'b'}.jpg" for i in range(6)
    ]
    assert manifest.left_out_count == 5 and "a tie" in manifest.left_out[0].reason
    assert {row.reason for row in manifest.left_out[1:]} == {"lacks human_preference, a list of two numbers"}


def test_agiqa_compares_pictures_of_a_prompt(tmp_path: Path) -> None:
    worlds.agiqa(tmp_path)
    fit = prepare("it_2afc/agiqa", tmp_path, tmp_path / "out")
    quality = prepare("iqa/agiqa", tmp_path, tmp_path / "out")
    # fit is 3, 2.25, 1.5, 0.75, and below 1 is not asked; quality is -1, 0.5, 2, 3.5
    assert len(fit.samples) == 3 * 3 and len(quality.samples) == 3 * 6
    for manifest, best in ((fit, min), (quality, max)):
        for sample in manifest.samples:
            assert _right(sample) == best(image.rpartition("/")[2] for image in sample.images)
    assert all(s.texts == (f"prompt {_right(s).split('_')[1]}",) for s in fit.samples)
    assert "3 pictures with mos_align below 1" in fit.notes[0]


def test_agiqa_names_ties_and_bad_rows(tmp_path: Path) -> None:
    worlds.agiqa(tmp_path)
    rows = [
        ("sd1.5_0_0.jpg", "p", "", "", "", 2, 0, 2, 0),
        ("sd1.5_0_1.jpg", "p", "", "", "", 2, 0, 2, 0),
        ("sd1.5_0_2.jpg", "p", "", "", "", 3, 0, 3, 0),
        ("sd1.5_0_2.jpg", "p", "", "", "", 3, 0, 3, 0),
        ("gone.jpg", "p", "", "", "", 3, 0, 3, 0),
        ("sd1.5_0_3.jpg", "", "", "", "", 3, 0, 3, 0),
        ("sd1.5_0_3.jpg", "p", "", "", "", "nan", 0, "nan", 0),
    ]
    worlds.table(tmp_path, "agiqa-3k/data.csv", worlds.AGIQA, rows)
    for key in ("it_2afc/agiqa", "iqa/agiqa"):
        manifest = prepare(key, tmp_path, tmp_path / "out")
        assert [_right(sample) for sample in manifest.samples] == ["sd1.5_0_2.jpg"] * 2
        assert manifest.left_out_count == 5
        assert _reasons(manifest)[-1].startswith("sd1.5_0_0.jpg and sd1.5_0_1.jpg: a tie: mos_")


def test_edits_ask_for_the_picture_after(tmp_path: Path) -> None:
    worlds.magicbrush(tmp_path)
    manifest = prepare("it_2afc/magicbrush", tmp_path, tmp_path / "out")
    assert [(_right(s), s.texts) for s in manifest.samples] == [
        (f"{i * 10 + 1}.jpg", (f"edit {i}",)) for i in range(5)
    ]
    assert manifest.notes[0].startswith("1 entries of MagicBrush-Diff and 1 with more than two pictures")


def test_hq_edit_asks_both_ways(tmp_path: Path) -> None:
    worlds.hq_edit(tmp_path)
    pictures = prepare("it_2afc/hq_edit", tmp_path, tmp_path / "out")
    texts = prepare("text_2afc/hq_edit", tmp_path, tmp_path / "out")
    assert len(pictures.samples) == len(texts.samples) == 8
    for one, other in zip(pictures.samples, texts.samples, strict=True):
        assert one.label == other.label == int(one.id[-1])
        assert one.texts == (other.texts[one.label],) and other.images == (one.images[one.label],)
    assert pictures.samples[1].texts == ("after 0",) and pictures.samples[0].images == (
        "HQ-Edit/images/0.jpg",
        "HQ-Edit/images/1.jpg",
    )
    some = prepare("it_2afc/hq_edit", tmp_path, tmp_path / "some", count=3)
    assert len(some.samples) == 3 and set(some.samples) <= set(pictures.samples)


def test_edits_name_bad_entries(tmp_path: Path) -> None:
    worlds.hq_edit(tmp_path)
    edit = worlds.edit
    rows = [
        edit("HQ-Edit", 0),
        edit("HQ-Edit", 0, sample_id=9),
        edit("HQ-Edit", 1, output="before 1"),
        edit("HQ-Edit", 2, input=None),
        edit("HQ-Edit", 3, pictures=1),
        {"image": "x.jpg"},
        edit("HQ-Edit", 9),
    ]
    worlds.listing(tmp_path, "HQ-Edit/test.json", rows)
    manifest = prepare("it_2afc/hq_edit", tmp_path, tmp_path / "out")
    assert len(manifest.samples) == 2
    assert _reasons(manifest) == [
        "test.json, entry 1: repeats test.json, entry 0",
        "test.json, entry 2: a tie: input and output are the same text",
        "test.json, entry 3: lacks a text as input or as output",
        "test.json, entry 4: has 1 pictures; a question needs two",
        "test.json, entry 5: no object with a list of pictures, image",
        "test.json, entry 6: HQ-Edit/images/90.jpg: missing",
    ]
    worlds.magicbrush(tmp_path)
    worlds.listing(
        tmp_path, "MagicBrush/test.json", [edit("MagicBrush", 0), edit("MagicBrush", 1, conversations=[])]
    )
    broken = prepare("it_2afc/magicbrush", tmp_path, tmp_path / "out")
    assert _reasons(broken) == ["test.json, entry 1: has no text as the value of its second turn"]
