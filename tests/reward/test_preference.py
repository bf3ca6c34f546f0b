"""PickScore, HPSv2, ImageReward and LAION's predictor, on tiny weights under the published names.

HPSv2 and ImageReward are compared with what the published modelling code returned for the same weights.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.scorers import hpsv2, imagereward, laion, open_clip, pickscore, weights
from reward_plugin.scorers.pixel_values import centre_square, letterbox
from reward_plugin.types import Scorer
from tests.reward.helpers import plain
from tests.reward.published import (
    golden,
    pictures,
    random_weights,
    save_bert_tokenizer,
    save_clip,
    save_clip_config,
)

HPSV2, IMAGEREWARD = golden("hpsv2"), golden("imagereward")
HEAD = {
    f"layers.{n}.{kind}": [outputs, inputs] if kind == "weight" else [outputs]
    for n, outputs, inputs in ((0, 1024, 16), (2, 128, 1024), (4, 64, 128), (6, 16, 64), (7, 1, 16))
    for kind in ("weight", "bias")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with everything: a CLIP, the published weight files, BERT's tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    save_clip(folder)
    (folder / "bert").mkdir()
    save_bert_tokenizer(folder / "bert")
    torch.save({"epoch": 3, "state_dict": random_weights(HPSV2["shapes"])}, folder / "HPS_v2.1_compressed.pt")
    torch.save(random_weights(IMAGEREWARD["shapes"]), folder / "ImageReward.pt")
    torch.save(random_weights(HEAD), folder / "sac+logos+ava1-l14-linearMSE.pth")
    return folder


def build_pickscore(folder: Path, batch_size: int = 64) -> Scorer:
    return pickscore.build(str(folder), device="cpu", batch_size=batch_size)


def build_hpsv2(folder: Path, batch_size: int = 64) -> Scorer:
    return hpsv2.build(str(folder), clip=str(folder), device="cpu", batch_size=batch_size)


def build_imagereward(folder: Path, batch_size: int = 64) -> Scorer:
    return imagereward.build(str(folder), tokenizer=str(folder / "bert"), device="cpu", batch_size=batch_size)


def build_laion(folder: Path, batch_size: int = 64) -> Scorer:
    return laion.build(str(folder), head=str(folder), device="cpu", batch_size=batch_size)


BUILDERS: list[Callable[..., Scorer]] = [build_pickscore, build_hpsv2, build_imagereward, build_laion]
every_scorer = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__[6:])


@pytest.mark.parametrize(
    ("build", "published"),
    [(build_hpsv2, HPSV2), (build_imagereward, IMAGEREWARD)],
    ids=["hpsv2", "imagereward"],
)
def test_scores_are_those_of_the_published_code(build: Callable[..., Scorer], published: dict, folder: Path):
    table = build(folder).score(pictures(published["crops"]), published["prompts"])
    np.testing.assert_allclose(table.values[:, 0], published["scores"], rtol=0, atol=2e-5)
    assert np.ptp(published["scores"]) > 0.1


def test_pickscore_is_the_scaled_cosine_of_transformers_own_processing(folder: Path):
    images, prompts = pictures(HPSV2["crops"]), HPSV2["prompts"]
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    expected = []
    for image, prompt in zip(images, prompts, strict=True):
        with torch.no_grad():
            text = tokenizer(prompt, truncation=True, max_length=77, return_tensors="pt")
            output = model(**processor(image, return_tensors="pt"), **text)
        expected.append(output.logits_per_image.item())
    scorer = build_pickscore(folder)
    np.testing.assert_allclose(scorer.score(images, prompts).column("pickscore"), expected, atol=1e-4)
    divided = pickscore.build(str(folder), normalise="flow_grpo", device="cpu")
    np.testing.assert_allclose(
        divided.score(images, prompts).column("pickscore"), np.array(expected) / 26, atol=1e-5
    )
    assert scorer.ranges["pickscore"][1] == pytest.approx(model.logit_scale.exp().item())


def test_laion_is_a_linear_head_on_the_normalised_embedding(folder: Path):
    images = [image.resize((32, 32)) for image in pictures(HPSV2["crops"])]  # nothing to resize or crop
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    head = random_weights(HEAD)
    with torch.no_grad():
        value = model.visual_projection(model.vision_model(pixels).pooler_output)
        value = value / value.norm(dim=-1, keepdim=True)
        for n in (0, 2, 4, 6, 7):
            value = value @ head[f"layers.{n}.weight"].T + head[f"layers.{n}.bias"]
    np.testing.assert_allclose(build_laion(folder).score(images).values, value, atol=1e-5)


@every_scorer
def test_batches_and_order_change_nothing(build: Callable[..., Scorer], folder: Path):
    images, prompts = pictures(HPSV2["crops"]), HPSV2["prompts"]
    scorer = build(folder)
    together = scorer.score(images, prompts).values
    atol = 1e-5 * scorer.ranges[scorer.dimensions[0]][1]
    alone = [scorer.score([image], [prompt]).values[0] for image, prompt in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(alone, together, rtol=0, atol=atol)
    np.testing.assert_allclose(
        build(folder, batch_size=2).score(images, prompts).values, together, rtol=0, atol=atol
    )
    order = [3, 0, 4, 2, 1]
    mixed = scorer.score([images[i] for i in order], [prompts[i] for i in order]).values
    np.testing.assert_allclose(mixed, together[order], rtol=0, atol=atol)
    assert len(np.unique(together.round(5))) == len(images)


@every_scorer
def test_items_that_cannot_be_scored_cost_only_themselves(build: Callable[..., Scorer], folder: Path):
    scorer, picture = build(folder), plain(9, 200)
    whole = scorer.score([picture], ["a cup"]).values
    table = scorer.score([b"junk", picture, picture], ["a cup", "a cup", " "])
    np.testing.assert_allclose(table.values[1], whole[0], atol=1e-4)
    assert "not one of PNG" in (table.errors[0] or "") and table.errors[1] is None
    if build is build_laion:  # it looks at no prompts
        assert table.errors[2] is None and scorer.score([picture]).errors == (None,)
    else:
        assert np.isnan(table.values[2]).all() and "no prompt was given" in (table.errors[2] or "")
        assert "no prompt was given" in (scorer.score([picture]).errors[0] or "")
    assert scorer.score([], []).values.shape == (0, 1)


@every_scorer
def test_pictures_of_odd_shapes_are_scored_or_refused_before_they_fill_the_memory(
    build: Callable[..., Scorer], folder: Path
):
    scorer = build(folder)
    sizes = [(1, 1), (500, 1), (1, 500), (1001, 1), (1, 60_000), (40, 30)]
    table = scorer.score([PIL.Image.new("RGB", size, "teal") for size in sizes], ["a cup"] * len(sizes))
    assert [error is None for error in table.errors] == [True, True, True, False, False, True]
    assert "1x60000: one side is over 1000 times the other; crop it first" in (table.errors[4] or "")
    alone = scorer.score([PIL.Image.new("RGB", (40, 30), "teal")], ["a cup"]).values
    np.testing.assert_allclose(table.values[5:], alone, rtol=0, atol=1e-4)


def test_weights_as_safetensors_are_preferred_and_score_the_same(folder: Path, tmp_path: Path):
    save_clip_config(tmp_path)
    torch.save({f"module.{k}": v for k, v in random_weights(HPSV2["shapes"]).items()}, tmp_path / "x.pt")
    written = weights.to_safetensors(tmp_path / "x.pt").rename(tmp_path / "HPS_v2.1_compressed.safetensors")
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"not looked at")
    scorer = hpsv2.build(str(tmp_path), clip=str(folder), device="cpu")
    scores = scorer.score(pictures(HPSV2["crops"]), HPSV2["prompts"]).values[:, 0]
    np.testing.assert_allclose(scores, HPSV2["scores"], rtol=0, atol=2e-5)
    assert weights.find_file(str(written), ("other",)) == written


class Dangerous:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"state_dict": Dangerous()}, tmp_path / "ImageReward.pt")
    with pytest.raises(CheckpointError, match=r"ImageReward.pt: damaged, or not a file of weights alone"):
        weights.read_weights(tmp_path / "ImageReward.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
@pytest.mark.parametrize("name", ["hpsv2", "imagereward"])
def test_weights_load_strictly(name: str, change: str, folder: Path, tmp_path: Path):
    published = random_weights(golden(name)["shapes"])
    key = {"hpsv2": "visual.ln_pre.weight", "imagereward": "blip.visual_encoder.blocks.1.norm1.weight"}[name]
    if change == "missing":
        del published[key]
    elif change == "shape":
        published[key] = torch.ones(7)
    else:
        published["visual.extra.weight"] = torch.ones(7)
    file = tmp_path / "weights.safetensors"
    save_file(published, file)
    with pytest.raises(
        CheckpointError, match=r"weights.safetensors: .*(missing|cannot be loaded|mismatched|not part of)"
    ):
        if name == "hpsv2":
            hpsv2.build(str(file), clip=str(folder), device="cpu")
        else:
            imagereward.build(str(file), tokenizer=str(folder / "bert"), device="cpu")


def test_a_head_of_another_model_is_refused(folder: Path, tmp_path: Path):
    wide = {**HEAD, "layers.0.weight": [1024, 768]}
    save_file(random_weights(wide), tmp_path / "aesthetic-model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers.0.weight has shape \(1024, 768\), but 16 inputs"):
        laion.build(str(folder), head=str(tmp_path), device="cpu")
    save_file({"weight": torch.ones(1, 16)}, tmp_path / "aesthetic-model.safetensors")
    with pytest.raises(CheckpointError, match=r"not a head of layers.N.weight .* it holds weight"):
        laion.build(str(folder), head=str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda f, e: hpsv2.build(e, clip=f), r"holds none of HPS_v2.1_compressed.safetensors, .*\.pt"),
        (lambda f, e: hpsv2.build(f, clip=e), r"preprocessor_config.json: missing"),
        (lambda f, e: hpsv2.build(f, clip=f, version="v2.0"), "holds none of HPS_v2_compressed.safetensors"),
        (lambda f, e: imagereward.build(f, tokenizer=e), r"vocab.txt: missing; option tokenizer"),
        (lambda f, e: imagereward.build(e, tokenizer=f + "/bert"), "holds none of ImageReward.safetensors"),
        (lambda f, e: laion.build(f, head=e), r"holds none of sac\+logos\+ava1-l14-linearMSE.safetensors"),
        (lambda f, e: pickscore.build(e, processor=f), r"config.json: missing"),
        (lambda f, e: pickscore.build(f, processor=e), r"preprocessor_config.json: missing"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    build: Callable[[str, str], Scorer], reason: str, folder: Path, tmp_path: Path
):
    with pytest.raises(CheckpointError, match=reason):
        build(str(folder), str(tmp_path))


def test_wrong_options_are_named(folder: Path):
    with pytest.raises(ConfigError, match=r"version 'v3': write v2.0 or v2.1"):
        hpsv2.build(str(folder), version="v3")
    with pytest.raises(ConfigError, match="normalise '26': write flow_grpo"):
        pickscore.build(str(folder), normalise="26")
    with pytest.raises(ConfigError, match="batch_size 0: must be at least 1"):
        build_laion(folder, batch_size=0)


def test_no_published_weight_is_dropped_or_doubled():
    shapes = random_weights(HPSV2["shapes"])
    native = open_clip.native_weights(shapes, "x")
    assert sum(t.numel() for t in native.values()) == sum(t.numel() for t in shapes.values())
    expected = random_weights(IMAGEREWARD["shapes"])
    kept = [part for parts in imagereward.split_weights(expected, "x") for part in parts.values()]
    unused = [t for name, t in expected.items() if "_proj." in name and ".visual" not in name]
    assert sum(t.numel() for t in kept) + sum(t.numel() for t in unused) == sum(
        t.numel() for name, t in expected.items() if "position_ids" not in name
    )


def test_centre_square_cuts_evenly_and_letterbox_keeps_everything():
    wide = PIL.Image.new("RGB", (60, 20))
    wide.paste((255, 0, 0), (20, 0, 40, 20))
    assert centre_square(wide, 20).getcolors() == [(400, (255, 0, 0))]
    boxed = letterbox(wide, 60)
    assert boxed.shape == (3, 60, 60)
    assert boxed[0].sum() == 400 and boxed[0, 20:40, 20:40].min() == 1
    assert letterbox(PIL.Image.new("RGB", (1, 500), "white"), 32).shape == (3, 32, 32)


def test_prompts_are_cleaned_as_open_clip_does():
    assert hpsv2.clean("  “It’s” &amp;amp; more ") == '"It\'s" & more'


def test_a_converted_file_holds_the_same_tensors(folder: Path, tmp_path: Path):
    torch.save(random_weights(HEAD), tmp_path / "head.pth")
    converted = load_file(weights.to_safetensors(tmp_path / "head.pth"))
    assert converted.keys() == HEAD.keys()
    assert torch.equal(converted["layers.7.bias"], random_weights(HEAD)["layers.7.bias"])
