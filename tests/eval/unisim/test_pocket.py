"""The small benchmark that ships: made again byte for byte, and its answers are true of the pictures."""

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from eval.__main__ import main
from eval.unisim.manifest import Manifest, read_manifest
from eval.unisim.pixels import STATISTICS
from eval.unisim.pocket.__main__ import SETS, make
from eval.unisim.pocket.pictures import World, describe, read_pictures
from eval.unisim.samples import TASKS
from tests.eval.unisim.planted import IMAGES, ROOT, results

SHIPPED = ROOT / "eval" / "data" / "unisim"


@pytest.fixture(scope="module")
def manifests() -> dict[str, Manifest]:
    found = [read_manifest(path) for path in sorted(SHIPPED.glob("*.jsonl"))]
    return {f"{one.task}/{one.dataset}": one for one in found}


def test_the_shipped_files_are_made_again_byte_for_byte(tmp_path: Path):
    make(IMAGES, tmp_path)
    names = sorted(path.name for path in SHIPPED.glob("*.jsonl"))
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes(), name


def test_every_task_is_asked_and_no_place_is_always_right(manifests: dict[str, Manifest]):
    assert set(manifests) == set(SETS)
    assert {manifest.task for manifest in manifests.values()} == set(TASKS)
    for name, manifest in manifests.items():
        if manifest.task in ("ir", "nafc"):
            continue
        counts = Counter(sample.label for sample in manifest.samples)
        choices, n = manifest.samples[0].choices, len(manifest.samples)
        # three standard deviations of a fair draw
        assert max(counts.values()) < n / choices + 3 * (n * (choices - 1)) ** 0.5 / choices, name


def pixels(name: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(IMAGES / name).convert("RGB"))


def test_answers_are_true_of_the_pictures(manifests: dict[str, Manifest]):
    known = {one.file: one for one in read_pictures(IMAGES)}
    for sample in manifests["img_2afc/severity"].samples:
        clean, *two = (known[name] for name in sample.images)
        right, wrong = two[sample.label or 0], two[1 - (sample.label or 0)]
        assert clean.file == f"{clean.of}.png" and clean.of == right.of == wrong.of
        assert right.severity < wrong.severity and right.loss < wrong.loss
    for sample in manifests["iqa/scenes"].samples:
        losses = [known[name].loss for name in sample.images]
        assert losses[sample.label or 0] + 1 <= losses[1 - (sample.label or 0)]
    for name in ("paa/edited", "paa/measured"):
        agree = [
            STATISTICS[sample.attribute](pixels(sample.images[sample.label or 0]))
            > STATISTICS[sample.attribute](pixels(sample.images[1 - (sample.label or 0)]))
            for sample in manifests[name].samples
        ]
        assert np.mean(agree) > 0.95, name
    for sample in manifests["ooo/copies"].samples:
        sources = Counter(known[name].source for name in sample.images)
        assert sources[known[sample.images[sample.label or 0]].source] == 1 and len(sources) == 2
    for name in ("it_2afc/things", "it_2afc/spoilt", "nafc/spoilt"):
        for sample in manifests[name].samples:
            shows = [describe(known[image].of) for image in sample.images]
            assert [text == sample.texts[0] for text in shows].index(True) == sample.label
            assert shows.count(sample.texts[0]) == 1
    for name in ("noun", "place", "background", "photographs"):
        for sample in manifests[f"text_2afc/{name}"].samples:
            assert sample.texts[sample.label or 0] == describe(known[sample.images[0]].of)
            assert sample.texts[0] != sample.texts[1]


def test_a_gallery_holds_every_copy_once_and_nothing_clean(manifests: dict[str, Manifest]):
    manifest = manifests["ir/copies"]
    known = {one.file: one for one in read_pictures(IMAGES)}
    assert len(manifest.gallery) == 88 and all(known[name].kind for name in manifest.gallery)
    for sample in manifest.samples:
        query = known[sample.images[0]]
        for at in (*sample.easy, *sample.hard):
            assert known[manifest.gallery[at]].of == query.of
            assert (known[manifest.gallery[at]].severity <= 0.35) == (at in sample.easy)
        left = set(range(88)) - {*sample.easy, *sample.hard, *sample.junk}
        assert all(known[manifest.gallery[at]].source != query.source for at in left)


def test_a_picture_that_the_world_does_not_know_is_named(tmp_path: Path):
    (tmp_path / "dragon_blur_35.png").write_bytes((IMAGES / "swan.png").read_bytes())
    with pytest.raises(ValueError, match=r"dragon_blur_35\.png: no picture of the small benchmark"):
        World(tmp_path)


def test_the_shipped_config_asks_all_tasks_and_tells_models_apart(tmp_path: Path):
    config = ROOT / "configs" / "eval" / "unisim_pocket.yaml"
    paths = ["--manifests", str(SHIPPED), "--root", str(IMAGES), "--out", str(tmp_path)]
    assert main(["unisim", "--config", str(config), *paths]) == 0
    record = results(tmp_path)
    models = {model["name"]: model for model in record["models"]}
    assert not record["problems"] and not any(model["problem"] for model in models.values())
    assert set(models["pocket-clip"]["tasks"]) == set(TASKS)
    assert all(score["accuracy"] is not None for score in models["pocket-clip"]["tasks"].values())
    cells = {
        (name, f"{cell['task']}/{cell['dataset']}"): cell["accuracy"]
        for name, model in models.items()
        for cell in model["datasets"]
    }
    # by construction, and what each model was made for
    assert cells["pixels", "paa/measured"] == 1 and cells["pixels", "paa/edited"] > 0.9
    assert cells["pocket-clip", "it_2afc/things"] > 0.95 and cells["pocket-clip", "it_2afc/spoilt"] > 0.75
    assert cells["pocket-unipercept", "iqa/severity"] > 0.75 > cells["pocket-clip", "iqa/severity"]
    core = {name: model["averages"]["core"]["accuracy"] for name, model in models.items()}
    assert core["pocket-unisim"] > core["pocket-clip"]
    counts = models["pocket-clip"]["datasets"][-1]["by_choices"]
    assert list(counts) == ["2", "3", "4", "6", "8"]
    assert all(tally["accuracy"] > 1.5 / int(n) for n, tally in counts.items())
    assert (tmp_path / "unisim.html").is_file()
