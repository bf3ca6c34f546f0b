"""The data sets of UniSim-Bench: where each comes from, how it lies on disk, how many questions it has.

`core` and `ood` are the benchmark's own groups (arXiv 2412.10594): models are trained on some data sets of
the core tasks and on none of the others. `published` counts are those that the published script asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eval.unisim.samples import Task

Group = Literal["core", "ood", "extra"]


@dataclass(frozen=True)
class Dataset:
    """A data set as one task uses it.

    Attributes:
        title: Its published name.
        group: `core`, `ood`, or `extra`: not among the 25 of the benchmark's tables.
        splits: Those that can be read; the first is the benchmark's.
        count: How many questions of the first split are drawn unless another number is asked for; None: all.
        published: How many the published script asks; None where it has none.
        homepage: Where it is described.
        licence: As its authors state it; "see the homepage" where no short name is known.
        download: Where to get it.
        layout: Files below the data root, as published.
    """

    title: str
    group: Group
    splits: tuple[str, ...]
    count: int | None
    published: int | None
    homepage: str
    licence: str
    download: str
    layout: str


#: Where the lists of MagicBrush and HQ-Edit are, and copies of other sets.
_UNISIM = "https://huggingface.co/datasets/saraghznfri/unisim_data"
_PIEAPP = (
    "https://github.com/prashnani/PerceptualImageError",
    "non-commercial and educational use",
    "https://github.com/prashnani/PerceptualImageError/blob/master/dataset/dataset_README.md",
    "pie_app/test_reference_list.txt, pie_app/labels/test/ref_161_pairwise_labels.csv, "
    "pie_app/reference_images/test/ref_161.png, pie_app/distorted_images/test/ref_161/NAME.png",
)
_HPDV2 = (
    "https://github.com/tgxs002/HPSv2",
    "Apache-2.0",
    "https://huggingface.co/datasets/zhwang/HPDv2",
    "hpdv2/test.json, hpdv2/test/NAME.jpg",
)
_AGIQA = (
    "https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    "MIT",
    "https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    "agiqa-3k/data.csv, agiqa-3k/images/NAME.jpg",
)
_HQ_EDIT = (
    "https://thefllood.github.io/HQEdit_web/",
    "CC-BY-NC-4.0",
    _UNISIM,
    "HQ-Edit/test.json, and the pictures that it names, such as HQ-Edit/images/1.jpg",
)
_KONIQ = (
    "https://database.mmsp-kn.de/koniq-10k-database.html",
    "see the homepage",
    "https://database.mmsp-kn.de/koniq-10k-database.html",
    "koniq10k/koniq10k_distributions_sets.csv, koniq10k/koniq10k_indicators.csv, koniq10k/1024x768/NAME.jpg",
)


def _revisited(folder: str) -> tuple[str, str, str, str]:
    return (
        "http://cmp.felk.cvut.cz/revisitop/",
        "see the homepage",
        "http://cmp.felk.cvut.cz/revisitop/",
        f"retrieval/revisitop/{folder}/gnd_{folder}.pkl, retrieval/revisitop/{folder}/jpg/NAME.jpg",
    )


#: Task and data set -> what is known of it.
DATASETS: dict[str, Dataset] = {
    "img_2afc/nights": Dataset(
        "NIGHTS", "core", ("test", "test_imagenet", "test_no_imagenet", "val", "train"), None, 1824,
        "https://dreamsim-nights.github.io/", "see the homepage",
        "https://data.csail.mit.edu/nights/nights.zip",
        "nights/data.csv, nights/ref/000/000.png, nights/distort/000/000_0.png",
    ),
    "img_2afc/bapps": Dataset(
        "BAPPS", "core", ("val", "train"), 5000, 5000,
        "https://github.com/richzhang/PerceptualSimilarity", "see the homepage",
        "https://github.com/richzhang/PerceptualSimilarity (scripts/download_dataset.sh)",
        "bapps/val/cnn/ref/000000.png, and p0, p1 (png) and judge (npy) beside ref; likewise color, deblur, "
        "frameinterp, superres, traditional",
    ),
    "img_2afc/pieapp": Dataset("PieAPP", "core", ("test", "val", "train"), None, 3314, *_PIEAPP),
    "it_2afc/imagereward": Dataset(
        "ImageRewardDB", "core", ("validation", "test", "train"), None, 412,
        "https://github.com/THUDM/ImageReward", "Apache-2.0",
        "https://huggingface.co/datasets/THUDM/ImageRewardDB",
        "ImageRewardDB/images/validation/validation_1/validation_1.json and NAME.webp beside it",
    ),
    "it_2afc/hpdv2": Dataset("HPDv2", "core", ("test", "train"), 5000, 5000, *_HPDV2),
    "it_2afc/agiqa": Dataset("AGIQA-3K", "core", ("all",), 5000, 5000, *_AGIQA),
    "it_2afc/magicbrush": Dataset(
        "MagicBrush", "core", ("test", "train"), None, 693,
        "https://osu-nlp-group.github.io/MagicBrush/", "CC-BY-4.0", _UNISIM,
        "MagicBrush/test.json, and the pictures that it names in MagicBrush/test",
    ),
    "it_2afc/hq_edit": Dataset("HQ-Edit", "core", ("test", "train"), 2000, 2000, *_HQ_EDIT),
    "text_2afc/cd_coco": Dataset(
        "CD-COCO", "core", ("test",), None, 780,
        "https://arxiv.org/abs/2306.11593", "see the homepage",
        f"{_UNISIM}; pictures: https://cocodataset.org/#download (2014 Val images)",
        "coco-triplets/resources/expert_worker_results_extended.csv, "
        "coco-triplets/resources/all_captions_extended.csv, coco/val2014/COCO_val2014_000000000042.jpg",
    ),
    "text_2afc/polaris": Dataset(
        "Polaris", "core", ("test", "val", "train"), 5000, 5000,
        "https://yuiga.dev/polos", "BSD-3-Clause-Clear", "https://huggingface.co/datasets/yuwd/Polaris",
        "polaris/polaris_test.csv, polaris/images/NAME.jpg",
    ),
    "text_2afc/hq_edit": Dataset("HQ-Edit", "core", ("test", "train"), 2000, 2000, *_HQ_EDIT),
    "iqa/kadid": Dataset(
        "KADID-10K", "core", ("test", "train"), None, 5000,
        "https://database.mmsp-kn.de/kadid-10k-database.html", "see the homepage",
        "https://datasets.vqa.mmsp-kn.de/archives/kadid10k.zip", "kadid10k/images/I73_01_01.png",
    ),
    "iqa/koniq": Dataset("KonIQ-10K", "core", ("test", "validation", "train"), 5000, 5000, *_KONIQ),
    "iqa/pieapp": Dataset("PieAPP", "core", ("test", "val", "train"), None, 5000, *_PIEAPP),
    "iqa/agiqa": Dataset("AGIQA-3K", "core", ("all",), 5000, 5000, *_AGIQA),
    "iqa/pipal": Dataset(
        "PIPAL", "core", ("val", "train"), None, 3025,
        "https://www.jasongt.com/projectpages/pipal.html", "see the homepage",
        "https://www.jasongt.com/projectpages/pipal.html",
        "PIPAL/val_label.txt, PIPAL/Val_Ref/A0000.bmp, PIPAL/Val_Dist/A0000_10_00.bmp (train: Train_Label, "
        "Train_Ref, Dist_Imgs)",
    ),
    "paa/sice": Dataset(
        "SICE", "ood", ("test", "train"), None, 2151,
        "https://github.com/csjcai/SICE", "see the homepage", "https://github.com/csjcai/SICE",
        "sice/Dataset_Part1/1/1.JPG, sice/Dataset_Part2/1/1.JPG",
    ),
    **{
        f"paa/koniq_{attribute}": Dataset(
            "KonIQ-10K", "ood", ("test", "validation", "train"), 5000, 5000, *_KONIQ
        )
        for attribute in ("brightness", "colorfulness", "contrast", "sharpness")
    },
    "ooo/cifar100": Dataset(
        "CIFAR-100-coarse", "ood", ("test", "train"), 5000, 5000,
        "https://www.cs.toronto.edu/~kriz/cifar.html", "see the homepage",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "cifar-100-python/test",
    ),
    "ooo/imagenet": Dataset(
        "ImageNet", "ood", ("val",), 5000, 5000,
        "https://image-net.org/", "non-commercial research", "https://image-net.org/download.php",
        "imagenet/val/n01440764/NAME.JPEG, a folder for each of the 1000 classes",
    ),
    "ir/roxford": Dataset("ROxford5K", "ood", ("test",), None, 70, *_revisited("roxford5k")),
    "ir/rparis": Dataset("RParis6K", "ood", ("test",), None, 70, *_revisited("rparis6k")),
    **{f"nafc/hpdv2_{n}": Dataset("HPDv2", "extra", ("test",), 3600, None, *_HPDV2) for n in range(2, 9)},
}  # fmt: skip


def task_of(key: str) -> Task:
    """The task of a key of `DATASETS`.

    Raises:
        ValueError: There is no such key.
    """
    if key not in DATASETS:
        raise ValueError(f"no data set {key!r}; there are {', '.join(DATASETS)}")
    task: Task = key.split("/")[0]  # type: ignore[assignment]
    return task
