"""Miniatures of the data sets of UniSim-Bench, with files named and shaped as they are published."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 8


def picture(root: Path, name: str, grey: int | None = None) -> None:
    """A tiny picture of one colour, which depends on its name unless a grey value is given."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (grey,) * 3 if grey is not None else tuple(sum(map(ord, name)) * k % 256 for k in (1, 7, 31))
    Image.new("RGB", (SIZE, SIZE), colour).save(path)


def table(root: Path, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def listing(root: Path, name: str, entries: Sequence[object]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")


NIGHTS = (
    "id", "left_vote", "right_vote", "prompt", "ref_path", "left_path", "right_path", "votes", "split",
    "is_imagenet",
)  # fmt: skip


def nights_row(index: int, right: object, votes: object = 8, split: str = "test", imagenet: str = "True"):
    stem = f"{index // 1000:03d}/{index:03d}"
    left = 1 - right if isinstance(right, int) else right
    paths = (f"ref/{stem}.png", f"distort/{stem}_0.png", f"distort/{stem}_1.png")
    return (index, left, right, "a dog", *paths, votes, split, imagenet)


def nights(root: Path) -> None:
    rows = [nights_row(i, i % 2, votes=6 + i, imagenet=str(i < 4)) for i in range(6)]
    rows += [nights_row(6, 1, votes=5), nights_row(7, 1, split="train")]
    table(root, "nights/data.csv", NIGHTS, rows)
    for row in rows:
        for path in row[4:7]:
            picture(root, f"nights/{path}")


def bapps(root: Path, split: str = "val") -> None:
    kinds = ("cnn", "color", "deblur", "frameinterp", "superres", "traditional")
    for kind in kinds if split == "val" else ("cnn", "mix", "traditional"):
        for index, share in enumerate((0.2, 1.0, 0.0, 0.6, 0.4, 0.8, 0.2, 0.0, 1.0, 0.6)):
            for part in ("ref", "p0", "p1"):
                picture(root, f"bapps/{split}/{kind}/{part}/{index:06d}.png")
            judge(root, f"bapps/{split}/{kind}/judge/{index:06d}.npy", share)


def judge(root: Path, name: str, share: float) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array([share], dtype=np.float32))


PIEAPP = ("ref. image", " distorted image A", " distorted image B", " preference for A")
PIEAPP_TRAIN = (*PIEAPP[:3], " raw preference for A", " processed preference for A")


def pieapp(root: Path) -> None:
    (root / "pie_app").mkdir(parents=True)
    (root / "pie_app/test_reference_list.txt").write_text("ref_161.png\nref_162.png\n")
    (root / "pie_app/train_reference_list.txt").write_text("ref_1.png\n")
    for number in (161, 162):
        names = [f"distort_{number}_blur_intra_{k}.png" for k in range(4)]
        shares = {(0, 1): 0.9, (0, 2): 0.1, (1, 2): 0.4, (2, 3): 0.61, (1, 3): 0.39, (0, 3): 0.6}
        rows: list[Sequence[object]] = [
            (f"ref_{number}.png", names[a], names[b], share) for (a, b), share in shares.items()
        ]
        rows.append((f"ref_{number}.png", names[0], f"ref_{number}.png", 0.0))
        _pieapp(root, "test", f"ref_{number}", PIEAPP, rows, names)
    rows = [("ref_1.png", "distort_1_a.png", "distort_1_b.png", "", 0.75)]
    _pieapp(root, "train", "ref_1", PIEAPP_TRAIN, rows, ["distort_1_a.png", "distort_1_b.png"])


def _pieapp(
    root: Path,
    split: str,
    ref: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    names: Sequence[str],
) -> None:
    table(root, f"pie_app/labels/{split}/{ref}_pairwise_labels.csv", columns, rows)
    picture(root, f"pie_app/reference_images/{split}/{ref}.png")
    for name in names:
        picture(root, f"pie_app/distorted_images/{split}/{ref}/{name}")


def reward_row(part: int, prompt: int, rank: int, split: str = "validation") -> dict[str, object]:
    return {
        "image_path": f"images/{split}/{split}_{part}/{prompt}-{rank}.webp",
        "prompt_id": f"{prompt:06d}-0001",
        "prompt": f"prompt {prompt}",
        "classification": "People",
        "image_amount_in_total": 4,
        "rank": rank,
        "overall_rating": 8 - rank,
    }


def imagereward(root: Path) -> None:
    for part, prompts in ((2, (1, 2)), (10, (3, 4, 5))):
        rows = [reward_row(part, prompt, rank) for prompt in prompts for rank in (1, 2, 3, 4)]
        listing(root, f"ImageRewardDB/images/validation/validation_{part}/validation_{part}.json", rows)
        for row in rows:
            picture(root, f"ImageRewardDB/{row['image_path']}")


def hpdv2_row(index: int, ranks: Sequence[int]) -> dict[str, object]:
    images = [f"{index:05d}{place}.jpg" for place in range(len(ranks))]
    return {"prompt": f"prompt {index}", "image_path": images, "rank": list(ranks), "raw_annotations": []}


def hpdv2(root: Path) -> None:
    rows = [hpdv2_row(i, [(place * 2 + i) % 9 + 1 for place in range(9)]) for i in range(3)]
    listing(root, "hpdv2/test.json", rows)
    train = [
        {
            "prompt": f"train {i}",
            "image_path": [f"{i}a.jpg", f"{i}b.jpg"],
            "human_preference": [i % 2, 1 - i % 2],
        }
        for i in range(6)
    ]
    listing(root, "hpdv2/train.json", train)
    for split, entries in (("test", rows), ("train", train)):
        for row in entries:
            for name in row["image_path"]:  # type: ignore[attr-defined]
                picture(root, f"hpdv2/{split}/{name}")


AGIQA = ("name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality", "mos_align", "std_align")


def agiqa(root: Path) -> None:
    rows = [
        (
            f"sd1.5_{p}_{k}.jpg",
            f"prompt {p}",
            "",
            "",
            "",
            f"{k * 1.5 - 1:.2f}",
            0.1,
            f"{3 - k * 0.75:.2f}",
            0.2,
        )
        for p in range(3)
        for k in range(4)
    ]
    table(root, "agiqa-3k/data.csv", AGIQA, rows)
    for row in rows:
        picture(root, f"agiqa-3k/images/{row[0]}")


def edit(folder: str, index: int, part: str = "", pictures: int = 2, **keys: object) -> dict[str, object]:
    images = [f"{folder}/images/{index * 10 + k}.jpg" for k in range(pictures)]
    turns = [{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": f"edit {index}"}]
    texts = {"input": f"before {index}", "output": f"after {index}"} if folder == "HQ-Edit" else {}
    about = {"dataset": folder + part, "split": "test"}
    return {"sample_id": index, "conversations": turns, "image": images, "metadata": about, **texts, **keys}


def magicbrush(root: Path) -> None:
    rows = [edit("MagicBrush", i) for i in range(5)]
    rows += [edit("MagicBrush", 5, "-Diff"), edit("MagicBrush", 6, pictures=3)]
    listing(root, "MagicBrush/test.json", rows)
    for row in rows:
        for name in row["image"]:  # type: ignore[attr-defined]
            picture(root, name.replace("/images/", "/test/"))


def hq_edit(root: Path) -> None:
    rows = [edit("HQ-Edit", i) for i in range(4)] + [edit("HQ-Edit", 4, "-Diff")]
    listing(root, "HQ-Edit/test.json", rows)
    for row in rows:
        for name in row["image"]:  # type: ignore[attr-defined]
            picture(root, name)


VOTES = ("Image_URL", "OFA", "GIT", "Our", "ExpNet-v2", "BLIP-2", "ViT-GPT2", "max_score")
CAPTIONS = ("fname", "OFA_Huge", "GIT_Large", "Ensemble", "ExpansionNet_v2", "BLIP_2", "ViT_GPT2")


def cd_coco(root: Path) -> None:
    names = [f"COCO_val2014_{i:012d}.jpg" for i in range(3)]
    votes = [
        (names[0], 0, 1, 3, 0, 1, 0, 3),
        (names[1], 4, 4, 0, 0, 0, 0, 4),
        (names[2], 2, 0, 1, 1, 1, 0, 2),
    ]
    table(root, "coco-triplets/resources/expert_worker_results_extended.csv", VOTES, votes)
    captions = [(name, *(f"{model} of {name}" for model in CAPTIONS[1:])) for name in names]
    table(root, "coco-triplets/resources/all_captions_extended.csv", CAPTIONS, captions)
    for name in names:
        picture(root, f"coco/val2014/{name}")


POLARIS = ("img", "refs", "cand", "model", "human_score")


def polaris(root: Path) -> None:
    rows = [
        (f"{i}.jpg", str([f"a dog {i}", f'it\'s a "cat" {i}']), f"a horse {i}", "blip", score)
        for i, score in enumerate((0.0, 0.25, 0.5, 0.75))
    ]
    table(root, "polaris/polaris_test.csv", POLARIS, rows)
    for row in rows:
        picture(root, f"polaris/images/{row[0]}")


def kadid(root: Path) -> None:
    for index in (1, 73, 81):
        for distortion in (1, 25):
            for severity in range(1, 6):
                picture(root, f"kadid10k/images/I{index:02d}_{distortion:02d}_{severity:02d}.png")


KONIQ = ("image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set")
INDICATORS = ("image_id", "brightness", "contrast", "colorfulness", "sharpness", "quality_factor")


def koniq(root: Path) -> None:
    ids = [10004473376 + i for i in range(8)]
    sets = ["test"] * 6 + ["training", "validation"]
    rows = [
        (f"{n}.jpg", 0, 0, 0, 1, 0, 100, 40 + i, 0.5, s)
        for i, (n, s) in enumerate(zip(ids, sets, strict=True))
    ]
    table(root, "koniq10k/koniq10k_distributions_sets.csv", KONIQ, rows)
    measured = [(n, 0.1 * i, 0.9 - 0.1 * i, i * i, 7 - i, 90) for i, n in enumerate(ids)]
    table(root, "koniq10k/koniq10k_indicators.csv", INDICATORS, measured)
    for n in ids:
        picture(root, f"koniq10k/1024x768/{n}.jpg")


def pipal(root: Path) -> None:
    lines = []
    for scene in ("A0000", "A0001"):
        picture(root, f"PIPAL/Val_Ref/{scene}.bmp")
        for index, rating in enumerate((1400.5, 1600, 1500, 1300, 1550, 1501, 1502)):
            name = f"{scene}_1{index}_00.bmp"
            picture(root, f"PIPAL/Val_Dist/{name}")
            lines.append(f"{name},{rating}\n")
    (root / "PIPAL/val_label.txt").write_text("".join(lines))
    picture(root, "PIPAL/Train_Ref/A0002.bmp")
    picture(root, "PIPAL/Dist_Imgs/A0002_00_00.bmp")
    (root / "PIPAL/Train_Label").mkdir()
    (root / "PIPAL/Train_Label/A0002.txt").write_text("A0002_00_00.bmp,1234.5\n")


def sice(root: Path) -> None:
    for part, scenes in (("Dataset_Part1", range(1, 16)), ("Dataset_Part2", range(1, 6))):
        for scene in scenes:
            picture(root, f"sice/{part}/Label/{scene}.JPG", scene * 10)
            for exposure in range(1, 5):
                picture(root, f"sice/{part}/{scene}/{exposure}.JPG", exposure * 40)
