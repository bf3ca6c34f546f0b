"""Readers of Text-2AFC, IQA and PAA: which answer is right, and what is left out with which reason."""

from pathlib import Path

import pytest
from PIL import Image

from eval.unisim.manifest import Manifest
from eval.unisim.prepare import prepare
from eval.unisim.samples import Sample
from tests.eval.unisim import worlds

RESOURCES = "coco-triplets/resources"


def _reasons(manifest: Manifest) -> list[str]:
    return [f"{row.where}: {row.reason}" for row in manifest.left_out]


def _right(sample: Sample) -> str:
    assert sample.label is not None
    return sample.texts[sample.label] if sample.texts else sample.images[sample.label].rpartition("/")[2]


def test_cd_coco_asks_the_best_caption_against_those_without_a_vote(tmp_path: Path) -> None:
    worlds.cd_coco(tmp_path)
    manifest = prepare("text_2afc/cd_coco", tmp_path, tmp_path / "out")
    first, second, _ = (f"COCO_val2014_{i:012d}.jpg" for i in range(3))
    ids = [f"{first}/{model}" for model in ("OFA", "ExpNet-v2", "ViT-GPT2")]
    ids += [f"{second}/{model}" for model in ("Our", "ExpNet-v2", "BLIP-2", "ViT-GPT2")]
    assert [sample.id for sample in manifest.samples] == ids
    assert {_right(sample) for sample in manifest.samples[:3]} == {f"Ensemble of {first}"}
    assert {_right(sample) for sample in manifest.samples[3:]} <= {
        f"OFA_Huge of {second}",
        f"GIT_Large of {second}",
    }
    wrong = {text for sample in manifest.samples[:3] for text in sample.texts} - {f"Ensemble of {first}"}
    assert wrong == {f"{model} of {first}" for model in ("OFA_Huge", "ExpansionNet_v2", "ViT_GPT2")}
    assert manifest.samples[0].images == (f"coco/val2014/{first}",)
    assert manifest.notes[0].startswith("1 pictures whose best caption has fewer than 3 votes")


def test_cd_coco_names_ties_and_bad_rows(tmp_path: Path) -> None:
    worlds.cd_coco(tmp_path)
    one, two, three = (f"COCO_val2014_{i:012d}.jpg" for i in range(3))
    votes = [
        (one, 3, 0, 0, 1, 1, 0, 3),
        (one, 3, 0, 0, 1, 1, 0, 3),
        (two, 3, 0, 1, 1, "", 1, 3),
        ("gone.jpg", 3, 0, 0, 0, 0, 0, 3),
        (three, 3, 0, 0, 0, 0, 0, 3),
        (two, 3),
    ]
    worlds.table(tmp_path, f"{RESOURCES}/expert_worker_results_extended.csv", worlds.VOTES, votes)
    captions = [(one, "A dog", "a dog ", "", "x", "y", "a cat"), (one, *"bcdefg"), ("odd",)]
    worlds.table(tmp_path, f"{RESOURCES}/all_captions_extended.csv", worlds.CAPTIONS, captions)
    manifest = prepare("text_2afc/cd_coco", tmp_path, tmp_path / "out")
    assert [(sample.id, _right(sample)) for sample in manifest.samples] == [(f"{one}/ViT-GPT2", "A dog")]
    short = "a number of votes is missing, or it has not as many cells as the first line"
    assert sorted(_reasons(manifest)) == sorted(
        [
            "all_captions_extended.csv, line 4: has not as many cells as the first line",
            f"{one}/GIT: a tie: both captions read the same",
            f"{one}/Our: a caption is missing",
            f"expert_worker_results_extended.csv, line 3: repeats {one} of "
            "expert_worker_results_extended.csv, line 2",
            f"expert_worker_results_extended.csv, line 4: {short}",
            "expert_worker_results_extended.csv, line 5: coco/val2014/gone.jpg: missing",
            f"expert_worker_results_extended.csv, line 6: {three} has no captions",
            f"expert_worker_results_extended.csv, line 7: {short}",
        ]
    )


@pytest.mark.parametrize("columns", [worlds.POLARIS, ("a", "b", "c", "d", "e")])
def test_polaris_asks_disliked_captions_against_references(columns: tuple[str, ...], tmp_path: Path) -> None:
    """By the names of columns, or by their places, as the published code reads them."""
    worlds.polaris(tmp_path)
    table = (tmp_path / "polaris/polaris_test.csv").read_text().split("\n", 1)[1]
    (tmp_path / "polaris/polaris_test.csv").write_text(",".join(columns) + "\n" + table)
    manifest = prepare("text_2afc/polaris", tmp_path, tmp_path / "out")
    expected = [(f"{i + 2}/{k}", (f"a dog {i}", f'it\'s a "cat" {i}')[k]) for i in range(3) for k in (0, 1)]
    assert [(sample.id, _right(sample)) for sample in manifest.samples] == expected
    assert all(f"a horse {sample.images[0][-5]}" in sample.texts for sample in manifest.samples)
    assert manifest.notes[0].startswith("1 captions rated above 0.5")


def test_polaris_names_ties_and_bad_rows_and_runs_nothing(tmp_path: Path) -> None:
    worlds.polaris(tmp_path)
    rows = [
        ("0.jpg", "['A dog.\\n', '']", "a dog", "m", 0),
        ("0.jpg", "['a', '']", "b", "m", 0),
        ("0.jpg", "['a']", "b", "m", 0.25),
        ("9.jpg", "['a']", "b", "m", 0),
        ("0.jpg", "['a']", "b", "m", "low"),
        ("0.jpg", "__import__('os').system('touch ran')", "b", "m", 0),
        ("0.jpg", "[1]", "b", "m", 0),
        ("0.jpg", "[" * 5000, "b", "m", 0),
        ("0.jpg", "['a']", " ", "m", 0),
    ]
    worlds.table(tmp_path, "polaris/polaris_test.csv", worlds.POLARIS, rows)
    manifest = prepare("text_2afc/polaris", tmp_path, tmp_path / "out")
    assert [sample.id for sample in manifest.samples] == ["3/0"] and not Path("ran").exists()
    bad = "has no list of references, no candidate, or no number as its rating"
    expected = [
        "a tie: the candidate is one of the references",
        "reference 1 is no text",
        "reference 0 repeats question 3/0",
        "polaris/images/9.jpg: missing",
        bad,
        bad,
        bad,
        bad,
        bad,
    ]
    assert [row.reason for row in manifest.left_out] == expected


def test_kadid_prefers_the_lower_severity(tmp_path: Path) -> None:
    worlds.kadid(tmp_path)
    manifest = prepare("iqa/kadid", tmp_path, tmp_path / "out")
    assert len(manifest.samples) == 2 * 2 * 10  # two pictures, two distortions, five severities
    for sample in manifest.samples:
        severities = [int(image[-6:-4]) for image in sample.images]
        assert severities[sample.label or 0] == min(severities) and len({i[:-7] for i in sample.images}) == 1
    train = prepare("iqa/kadid", tmp_path, tmp_path / "out", split="train")
    assert {sample.id.split("/")[0] for sample in train.samples} == {"I01_01", "I01_25"}


def test_koniq_prefers_the_higher_value(tmp_path: Path) -> None:
    worlds.koniq(tmp_path)
    rises = {
        "iqa/koniq": True,
        "paa/koniq_brightness": True,
        "paa/koniq_contrast": False,
        "paa/koniq_colorfulness": True,
        "paa/koniq_sharpness": False,
    }
    for key, rising in rises.items():
        manifest = prepare(key, tmp_path, tmp_path / "out")
        assert len(manifest.samples) == 15  # all pairs of the six of the test split
        for sample in manifest.samples:
            assert _right(sample) == sorted(image.rpartition("/")[2] for image in sample.images)[rising]
            assert sample.attribute == (None if key == "iqa/koniq" else key.rpartition("_")[2])
        assert len(prepare(key, tmp_path, tmp_path / "few", count=4).samples) == 4


def test_koniq_names_ties_and_bad_rows(tmp_path: Path) -> None:
    worlds.koniq(tmp_path)
    rows = [
        (f"1000447337{n}.jpg", 0, 0, 0, 1, 0, 100, mos, 0.5, "test")
        for n, mos in ((6, 50), (7, 50), (8, "?"), (9, 60), (9, 61))
    ] + [("gone.jpg", 0, 0, 0, 1, 0, 9, 1, 1, "test")]
    worlds.table(tmp_path, "koniq10k/koniq10k_distributions_sets.csv", worlds.KONIQ, rows)
    worlds.table(
        tmp_path,
        "koniq10k/koniq10k_indicators.csv",
        worlds.INDICATORS,
        [(10004473379, 1, 1, 1, 1, 1), ("10004473376.jpg", 2, 1, 1, 1, 1)],
    )
    manifest = prepare("iqa/koniq", tmp_path, tmp_path / "out")
    assert {_right(sample) for sample in manifest.samples} == {"10004473379.jpg"} and len(
        manifest.samples
    ) == 2
    reasons = _reasons(manifest)
    assert reasons[:3] == [
        "koniq10k_distributions_sets.csv, line 6: repeats 10004473379.jpg",
        "10004473378.jpg: MOS is '?', not a number",
        "gone.jpg: koniq10k/1024x768/gone.jpg: missing",
    ] and reasons[3].endswith("a tie: MOS is 50 for both")
    other = prepare("paa/koniq_brightness", tmp_path, tmp_path / "out")
    assert [_right(sample) for sample in other.samples] == ["10004473376.jpg"]
    assert "10004473377.jpg: brightness is '', not a number" in _reasons(other)


def test_pipal_asks_five_good_pictures_against_each_bad_one(tmp_path: Path) -> None:
    worlds.pipal(tmp_path)
    manifest = prepare("iqa/pipal", tmp_path, tmp_path / "out")
    good = ["A0000", "A0000_11_00", "A0000_12_00", "A0000_14_00", "A0000_15_00"]  # A0000_16_00 is the sixth
    ids = [f"{better}/{worse}" for better in good for worse in ("A0000_10_00", "A0000_13_00")]
    assert [sample.id for sample in manifest.samples] == [*ids, *(i.replace("A0000", "A0001") for i in ids)]
    assert all(_right(sample) == f"{sample.id.split('/')[0]}.bmp" for sample in manifest.samples)
    train = prepare("iqa/pipal", tmp_path, tmp_path / "out", split="train")
    assert [sample.id for sample in train.samples] == ["A0002/A0002_00_00"]


def test_pipal_names_bad_lines(tmp_path: Path) -> None:
    worlds.pipal(tmp_path)
    lines = [
        "A0000_10_00.bmp,1400",
        "A0000_10_00.bmp,1600",
        "A0000_11_00.bmp;1400",
        "A0000.bmp,1",
        "",
        "A0000_99_00.bmp,9",
        "A0009_00_00.bmp,1400",
    ]
    (tmp_path / "PIPAL/val_label.txt").write_text("\n".join(lines))
    manifest = prepare("iqa/pipal", tmp_path, tmp_path / "out")
    assert [sample.id for sample in manifest.samples] == ["A0000/A0000_10_00"]
    assert [row.where.rpartition("/")[2] for row in manifest.left_out] == [
        "val_label.txt, line 2",
        "val_label.txt, line 3",
        "val_label.txt, line 4",
        "A0000_99_00.bmp",
        "A0009.bmp",
        "A0009_00_00.bmp",
    ]


def test_sice_prefers_the_brighter_exposure_of_a_scene(tmp_path: Path) -> None:
    worlds.sice(tmp_path)
    test = prepare("paa/sice", tmp_path, tmp_path / "out")
    train = prepare("paa/sice", tmp_path, tmp_path / "out", split="train")
    assert len(test.samples) == 2 * 6 and len(train.samples) == 18 * 6  # a tenth of 20 scenes, pairs of 4
    for sample in (*test.samples, *train.samples):
        assert _right(sample) == max(image.rpartition("/")[2] for image in sample.images)
        assert (
            len({image.rpartition("/")[0] for image in sample.images}) == 1
            and sample.attribute == "brightness"
        )
    scenes = [{sample.id.rsplit("/", 2)[0] for sample in part.samples} for part in (test, train)]
    assert not scenes[0] & scenes[1] and len(scenes[0] | scenes[1]) == 20
    assert not any("Label" in scene for scene in scenes[0] | scenes[1])
    other = prepare("paa/sice", tmp_path, tmp_path / "other", 1)  # a seed moves no scene into the test split
    assert {sample.id for sample in other.samples} == {sample.id for sample in test.samples} != set()


def test_sice_names_ties_and_damaged_pictures(tmp_path: Path) -> None:
    worlds.sice(tmp_path)
    scene = prepare("paa/sice", tmp_path, tmp_path / "out").samples[0].id.rsplit("/", 2)[0]
    Image.new("RGB", (8, 8), (80, 80, 80)).save(tmp_path / f"sice/{scene}/1.JPG")
    (tmp_path / f"sice/{scene}/4.JPG").write_bytes(b"no picture")
    manifest = prepare("paa/sice", tmp_path, tmp_path / "out", again=True)
    ids = [sample.id for sample in manifest.samples if sample.id.startswith(f"{scene}/")]
    assert ids == [f"{scene}/1.JPG/3.JPG", f"{scene}/2.JPG/3.JPG"]
    assert "damaged" in manifest.left_out[0].reason
    assert _reasons(manifest)[1] == f"{scene}/1.JPG/2.JPG: a tie: the mean grey value is 80 for both"
