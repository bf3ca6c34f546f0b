"""The scorer `unisim`: its columns, what is missing from them, and that a server gives the same ones."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from starlette.testclient import TestClient
from transformers import CLIPModel

from reward_plugin.app import build_app
from reward_plugin.combine import combine
from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.images import to_png
from reward_plugin.score.identity import describe
from reward_plugin.scorers import build_scorer
from reward_plugin.scorers.unisim import DIMENSIONS, UniSimScorer
from reward_plugin.unisim import formulas
from reward_plugin.unisim.layout import TARGETS, write_published
from reward_plugin.unisim.prompts import texts_for
from reward_plugin.wire import ScoreRequest, decode_response, encode_request
from tests.reward.helpers import plain
from tests.reward.published import golden, pictures, save_clip

IMAGES = pictures(golden("hpsv2")["crops"])
PROMPTS = ["a cup", "a cat", "a cup", "a red boat", "?"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned model: its base, its published file and its adapter folder."""
    place = tmp_path_factory.mktemp("unisim")
    (place / "base").mkdir()
    save_clip(place / "base")
    model = CLIPModel.from_pretrained(place / "base")
    model.vision_model = get_peft_model(
        model.vision_model, LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS))
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight += 0.1
    write_published(place / "unisim.pt", model, 32)
    model.vision_model.save_pretrained(place / "adapter")
    return place


def build(place: Path, **options) -> UniSimScorer:
    spec = {"name": "unisim", "path": str(place / "base"), "weights": str(place / "unisim.pt")}
    scorer = build_scorer({**spec, "device": "cpu", **options})
    assert isinstance(scorer, UniSimScorer)
    return scorer


def test_every_column_is_its_formula(place: Path):
    scorer = build(place, dimensions=list(DIMENSIONS), batch_size=2)
    table = scorer.score(IMAGES, PROMPTS)
    seen, _ = scorer.encoder.embed_images(IMAGES)
    read = scorer.encoder.embed_texts(PROMPTS)
    np.testing.assert_allclose(table.column("unisim_adherence"), 100 * (seen * read).sum(axis=1), atol=1e-4)
    for quantity in ("quality", "brightness", "colorfulness", "contrast", "sharpness"):
        (text,) = scorer.encoder.embed_texts(texts_for(quantity))
        np.testing.assert_allclose(table.column(f"unisim_{quantity}"), 100 * seen @ text, atol=1e-4)
    assert table.errors == (None,) * len(IMAGES) and table.dimensions == DIMENSIONS
    assert scorer.encoder.counts.pictures == len(IMAGES)
    untuned = build(place, weights=None).score(IMAGES, PROMPTS)
    assert np.abs(untuned.values - table.values[:, :2]).max() > 1


def test_the_formula_changes_the_ratings_and_their_range(place: Path):
    scorer = build(place, formula="clip_iqa")
    seen, _ = scorer.encoder.embed_images(IMAGES)
    texts = scorer.encoder.embed_texts(["Good photo.", "Bad photo."])
    table = scorer.score(IMAGES, PROMPTS)
    np.testing.assert_allclose(
        table.column("unisim_quality"), 100 * formulas.clip_iqa(seen, *texts), atol=1e-4
    )
    assert scorer.ranges["unisim_adherence"] == (-100, 100)
    assert scorer.ranges["unisim_quality"] == pytest.approx((11.9203, 88.0797), abs=1e-4)
    assert build(place).ranges["unisim_quality"] == (-100, 100)
    paper = build(place, formula="paper").score(IMAGES).column("unisim_quality")
    assert np.abs(paper - build(place).score(IMAGES).column("unisim_quality")).max() > 1e-3


def test_without_a_prompt_only_the_adherence_is_missing(place: Path):
    scorer = build(place)
    whole = scorer.score([plain(9, 200)], ["a cup"]).values[0]
    prompts: list[Any] = ["a cup", "a cup", " ", None]
    table = scorer.score([b"junk", *[plain(9, 200)] * 3], prompts)
    assert "not one of PNG" in (table.errors[0] or "") and np.isnan(table.values[0]).all()
    np.testing.assert_array_equal(table.values[1:], [whole, [np.nan, whole[1]], [np.nan, whole[1]]])
    assert table.errors[1] is None and "no prompt was given" in (table.errors[2] or "")
    reward = combine(table, {"unisim_quality": 1.0}).reward
    np.testing.assert_array_equal(reward[1:], [whole[1]] * 3)
    alone = scorer.score([plain(9, 200)])
    np.testing.assert_array_equal(alone.values, [[np.nan, whole[1]]])
    assert build(place, dimensions=["unisim_quality"]).score([plain(9, 200)]).errors == (None,)
    assert "not one of PNG" in (scorer.score([b"junk"]).errors[0] or "")
    assert scorer.score([]).values.shape == (0, 2)


def test_a_score_that_is_not_finite_says_so(place: Path):
    scorer = build(place)
    with torch.no_grad():
        scorer.encoder.model.text_projection.weight.fill_(torch.nan)
    table = scorer.score([plain(1, 2)], ["a cup"])
    assert np.isnan(table.values).all() and table.errors == ("the model returned a score that is not finite",)


def test_a_server_gives_the_same_scores(place: Path):
    scorer = build(place, dimensions=list(DIMENSIONS))
    expected = build(place, dimensions=list(DIMENSIONS)).score(IMAGES, PROMPTS)
    with TestClient(build_app([scorer])) as client:
        request = ScoreRequest(tuple(to_png(image) for image in IMAGES), prompts=tuple(PROMPTS))
        kind, body = encode_request(request)
        response = client.post("/v1/score", content=body, headers={"Content-Type": kind})
        listed = client.get("/v1/scorers").json()
    table = decode_response(response.json())
    np.testing.assert_allclose(table.values, expected.values, atol=1e-4)
    assert table.dimensions == DIMENSIONS == tuple(listed["dimensions"])
    assert listed["scorers"][0]["ranges"]["unisim_sharpness"] == [-100, 100]


def test_what_decides_the_scores_is_in_their_identity(place: Path, tmp_path: Path):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    specs = {
        kind: {"name": "unisim", "path": str(tmp_path / "base"), "weights": weights, "device": "cpu"}
        for kind, weights in (
            ("plain", None),
            ("file", str(tmp_path / "unisim.pt")),
            ("adapter", str(tmp_path / "adapter")),
        )
    }

    def identities() -> dict[str, str]:
        return {kind: describe(spec) for kind, spec in specs.items()}

    def changed_by(name: str) -> set[str]:
        before = identities()
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        return {kind for kind, text in identities().items() if text != before[kind]}

    assert len(set(identities().values())) == 3
    elsewhere = specs["file"] | {"weights": str(place / "unisim.pt"), "path": str(place / "base")}
    assert describe(elsewhere) == identities()["file"] != describe(specs["file"] | {"formula": "clip_iqa"})
    assert changed_by("unisim.pt") == {"file"}
    assert changed_by("adapter/adapter_model.safetensors") == {"adapter"}
    assert changed_by("base/model.safetensors") == {"plain", "adapter"}  # the file replaces all of them
    assert changed_by("base/tokenizer.json") == {"plain", "file", "adapter"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dimensions": "unisim_quality"}, "dimensions 'unisim_quality': write a list of some of unisim_adh"),
        ({"dimensions": []}, r"dimensions \[\]: write a list"),
        ({"dimensions": ["quality"]}, "dimensions: 'quality': known are unisim_adherence"),
        ({"dimensions": ["unisim_quality"] * 2}, "dimensions: 'unisim_quality': it is there twice"),
        ({"formula": "softmax"}, "formula 'softmax': write naive, paper, clip_iqa"),
    ],
)
def test_wrong_options_are_named_before_anything_is_loaded(options: dict, reason: str):
    with pytest.raises(ConfigError, match=reason):
        build_scorer({"name": "unisim", "path": "nowhere/to-be-found", **options})


def test_weights_that_are_not_there_are_named(place: Path):
    with pytest.raises(CheckpointError, match=r"none.pt: neither a weight file, nor a folder"):
        build(place, weights=str(place / "none.pt"))
