"""UniSim's encoder: transformers' own features, each item computed once, from every layout of weights."""

import copy
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.scorers import hpsv2
from reward_plugin.types import ImageLike
from reward_plugin.unisim.encoder import NOT_FINITE, Encoder
from reward_plugin.unisim.layout import TARGETS, write_published
from reward_plugin.unisim.recent import Recent
from tests.reward.helpers import plain
from tests.reward.published import golden, pictures, random_weights, save_clip

CROPS = golden("hpsv2")["crops"]
TEXTS = ["a red boat", "", "a red boat", "x" * 300]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


def load(folder: Path, weights: Path | None = None, **options) -> Encoder:
    return Encoder.load(str(folder), None if weights is None else str(weights), device="cpu", **options)


def features(folder: Path, images: list[PIL.Image.Image], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What transformers' own classes make of them, one at a time."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    with torch.no_grad():
        seen = [model.get_image_features(**processor(image, return_tensors="pt")) for image in images]
        read = [
            model.get_text_features(**tokenizer(text, truncation=True, max_length=77, return_tensors="pt"))
            for text in texts
        ]
    stacked = [torch.cat([item.pooler_output for item in items]).numpy() for items in (seen, read)]
    return stacked[0], stacked[1]


def test_embeddings_are_transformers_features_at_length_one(folder: Path):
    images = pictures(CROPS)
    encoder = load(folder, batch_size=2)
    embedded, errors = encoder.embed_images(images)
    read = encoder.embed_texts(TEXTS)
    assert errors == (None,) * len(images) and embedded.dtype == read.dtype == np.float32
    assert embedded.shape == (len(images), encoder.dimension) and read.shape == (4, encoder.dimension)
    for mine, theirs in zip((embedded, read), features(folder, images, TEXTS), strict=True):
        np.testing.assert_allclose(mine, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("threads", [0, 3])
def test_each_distinct_item_is_encoded_once(threads: int, folder: Path):
    encoder = load(folder, batch_size=2, threads=threads)
    seen: list[int] = []
    encoder.model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    red, green, blue = (PIL.Image.new("RGB", (40, 32), colour) for colour in ("red", "green", "blue"))
    first, _ = encoder.embed_images([red, green, np.asarray(red), red, blue])
    second, _ = encoder.embed_images([blue, red])
    assert seen == [2, 1]  # full batches of what is new
    np.testing.assert_array_equal(first[[2, 3]], first[[0, 0]])
    np.testing.assert_array_equal(second, first[[4, 0]])
    encoder.embed_texts(TEXTS)
    encoder.embed_texts(["a red boat", "another"])
    assert vars(encoder.counts) == {"pictures": 3, "kept_pictures": 4, "texts": 4, "kept_texts": 2}


def test_pictures_of_one_size_in_bytes_are_told_apart(folder: Path):
    lines = np.zeros((40, 20, 3), dtype=np.uint8)
    lines[::2] = 255
    encoder = load(folder)
    encoder.embed_images([lines, lines.reshape(20, 40, 3)])
    assert encoder.counts.pictures == 2


@pytest.mark.parametrize(("items", "encoded"), [(0, 5 + 5 + 1), (2, 5 + 3)])
def test_a_small_cache_forgets_and_still_answers(items: int, encoded: int, folder: Path):
    images = pictures(CROPS)
    expected, _ = load(folder).embed_images(images)
    encoder = load(folder, cache_items=items)
    for _ in range(2):  # of the first time the last two are kept, of the second the three that were lost
        rows, _ = encoder.embed_images([*images, images[0]])
        np.testing.assert_allclose(rows, expected[[*range(5), 0]], atol=2e-6)
    encoder.embed_images([images[2]])
    assert encoder.counts.pictures == encoded


def test_the_least_recently_used_goes_first():
    recent = Recent(2)
    for key in (b"a", b"b"):
        recent.keep(key, np.array([1.0]))
    assert recent.get(b"a") is not None
    recent.keep(b"c", np.array([1.0]))
    assert (b"a" in recent, b"b" in recent, b"c" in recent, len(recent)) == (True, False, True, 2)


def test_what_cannot_be_read_is_nan_with_its_reason_and_costs_nothing_else(folder: Path, tmp_path: Path):
    picture = plain(9, 200)
    encoder = load(folder)
    images: list[ImageLike] = [
        b"junk",
        picture,
        str(tmp_path / "none.png"),
        PIL.Image.new("RGB", (1, 2000)),
        picture,
    ]
    rows, errors = encoder.embed_images(images)
    assert np.isnan(rows[[0, 2, 3]]).all() and np.isfinite(rows[[1, 4]]).all()
    assert "not one of PNG" in (errors[0] or "") and "no such file" in (errors[2] or "")
    assert "over 1000 times the other" in (errors[3] or "") and errors[1] is errors[4] is None
    np.testing.assert_array_equal(rows[1], load(folder).embed_images([picture])[0][0])
    assert encoder.embed_images([])[0].shape == (0, 16) and encoder.embed_texts([]).shape == (0, 16)


def test_what_the_model_cannot_embed_is_nan_and_is_not_kept(folder: Path):
    encoder = load(folder)
    projections = encoder.model.visual_projection.weight, encoder.model.text_projection.weight
    sound = [weight.clone() for weight in projections]
    for weight in projections:
        weight.fill_(torch.inf)
    rows, errors = encoder.embed_images([plain(1, 2), plain(1, 2)])
    assert np.isnan(rows).all() and errors == (NOT_FINITE, NOT_FINITE)
    assert np.isnan(encoder.embed_texts(["a"])).all()
    for weight, value in zip(projections, sound, strict=True):
        weight.copy_(value)
    assert np.isfinite(encoder.embed_images([plain(1, 2)])[0]).all()
    assert np.isfinite(encoder.embed_texts(["a"])).all()


@pytest.fixture(scope="module")
def tuned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five layouts of one tuned model, and `base` without weights."""
    place = tmp_path_factory.mktemp("tuned")
    model = CLIPModel.from_pretrained(folder)
    untouched = copy.deepcopy(model.visual_projection.state_dict())
    config = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS))
    model.vision_model = get_peft_model(model.vision_model, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight += 0.1
    assert untouched.keys() == model.visual_projection.state_dict().keys()
    write_published(place / "unisim.pt", model, 32)
    model.vision_model.save_pretrained(place / "adapter")
    model.vision_model = model.vision_model.merge_and_unload()
    model.save_pretrained(place / "merged")
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}  # as older versions save them
    torch.save({**model.state_dict(), **ids}, place / "pytorch_model.bin")
    shutil.copytree(folder, place / "whole")
    model.save_pretrained(place / "whole")
    shutil.copytree(folder, place / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    return place


@pytest.mark.parametrize(
    ("base", "weights"),
    [
        ("base", "unisim.pt"),
        (None, "adapter"),
        ("base", "merged"),
        ("whole", None),
        ("base", "pytorch_model.bin"),
    ],
    ids=["published", "adapter", "merged", "whole", "torch"],
)
def test_every_layout_gives_the_same_model(base: str | None, weights: str | None, folder: Path, tuned: Path):
    encoder = load(tuned / base if base else folder, tuned / weights if weights else None)
    images = pictures(CROPS)
    found, _ = encoder.embed_images(images)
    theirs, _ = features(tuned / "whole", images, ["a"])
    np.testing.assert_allclose(found, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)
    assert np.abs(found - load(folder).embed_images(images)[0]).max() > 0.05
    assert type(encoder.model) is CLIPModel and not any(p.requires_grad for p in encoder.model.parameters())


def test_open_clip_weights_are_a_baseline(folder: Path, tuned: Path, tmp_path: Path):
    file = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(random_weights(golden("hpsv2")["shapes"]), file)
    images = [image.resize((32, 32)) for image in pictures(CROPS)]  # nothing to resize or crop
    texts = ["a cup"] * len(images)
    expected = hpsv2.build(str(file), clip=str(folder), device="cpu").score(images, texts).values[:, 0]
    encoder = load(tuned / "base", file)
    cosines = encoder.embed_images(images)[0] @ encoder.embed_texts(texts[:1])[0]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_wrong_weights_and_options_are_named(folder: Path, tuned: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"none: neither a weight file, nor a folder with adapter_con"):
        load(folder, tmp_path / "none")
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt: .* missing keys for CLIPModel, first"):
        load(folder, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: missing"):
        load(tuned / "merged")
    with pytest.raises(ConfigError, match="batch_size 0: must be at least 1"):
        load(folder, batch_size=0)
