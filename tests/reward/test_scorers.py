"""CLIP, pixel statistics and pyiqa's metrics, and how a config names scorers."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.scorers import SCORERS, build_scorer, build_scorers, clip, pixels, pyiqa
from reward_plugin.scorers.clip import ClipScorer
from reward_plugin.types import ImageLike, Scorer
from tests.reward.golden import CHECKPOINT, FOLDER
from tests.reward.helpers import plain

PROMPTS = ["a cup", "a man on the moon, in colour", "?", "x" * 100, "grey"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIPModel with a letter tokenizer and a preprocessing unlike CLIP's default."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    text = {**tower, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 12}
    vision = {**tower, "image_size": 24, "patch_size": 8}
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}, image_mean=[0.4, 0.5, 0.6]
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_scorer(clip_folder: Path) -> ClipScorer:
    return clip.build(str(clip_folder), device="cpu")


def test_adherence_is_the_cosine_of_transformers_own_model(clip_folder: Path, clip_scorer: ClipScorer):
    images = sorted((FOLDER / "images").iterdir())
    scores = clip_scorer.score(images, PROMPTS).column("adherence")
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        with PIL.Image.open(image) as opened, torch.no_grad():
            # one pair at a time: no padding, truncated to the model's twelve positions
            output = model(
                **processor(opened.convert("RGB"), return_tensors="pt"),
                **tokenizer(prompt, truncation=True, max_length=12, return_tensors="pt"),
            )
        cosine = output.logits_per_image.item() / model.logit_scale.exp().item()
        assert score == pytest.approx(100 * cosine, abs=1e-3)
    assert np.ptp(scores) > 1


def test_adherence_without_a_prompt_is_missing(clip_scorer: ClipScorer):
    table = clip_scorer.score([plain(1, 2), b"junk"])
    assert np.isnan(table.values).all()
    assert "no prompt" in (table.errors[0] or "") and "not one of PNG" in (table.errors[1] or "")
    some = clip_scorer.score([plain(1, 2), plain(1, 2), b"junk", plain(1, 2)], ["a cup", "", "a cup", " "])
    assert [error is None for error in some.errors] == [True, False, False, False]


def test_clipscore_is_that_of_the_paper(clip_folder: Path, clip_scorer: ClipScorer):
    images = [plain(red, green) for red, green in ((0, 0), (250, 9), (90, 90), (7, 255))]
    prompts = ["a cup", "grey", "boat", "zz 9"]
    scorer = clip.build(str(clip_folder), device="cpu", formula="clipscore")
    behind_prefix = [f"A photo depicts {prompt}" for prompt in prompts]
    cosines = clip_scorer.score(images, behind_prefix).column("adherence") / 100
    scores = scorer.score(images, prompts).column("clip_score")
    np.testing.assert_allclose(scores, 2.5 * np.maximum(cosines, 0), atol=1e-5)
    assert scorer.ranges == {"clip_score": (0.0, 2.5)}
    negative = ClipScorer(scorer.model, scorer.tokenizer, scorer.processor, factor=-1.0, lowest=0.0)
    assert (negative.score(images, behind_prefix).values[cosines > 0] == 0).all()


def test_small_batches_keep_the_order(clip_scorer: ClipScorer):
    images = sorted((FOLDER / "images").iterdir())
    small = ClipScorer(clip_scorer.model, clip_scorer.tokenizer, clip_scorer.processor, batch_size=2)
    together, apart = clip_scorer.score(images, PROMPTS).values, small.score(images, PROMPTS).values
    np.testing.assert_allclose(apart, together, atol=1e-3)


def test_a_folder_that_is_not_a_clip_model(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: missing"):
        clip.build(str(CHECKPOINT))
    with pytest.raises(CheckpointError, match="nowhere/at/all: no such folder"):
        clip.build("nowhere/at/all")


def test_colourfulness_of_known_pictures():
    half = np.zeros((4, 4, 3), np.uint8)
    half[:2, :, 0] = 255  # half red, half black: rg is 255 or 0, yb 127.5 or 0
    assert pixels.colourfulness(half.astype(float)) == pytest.approx(1.3 * np.hypot(127.5, 63.75))
    assert pixels.colourfulness(np.full((4, 4, 3), 90.0)) == 0


def test_saturation_is_that_of_hsv():
    image = np.array([[[255, 0, 0], [100, 50, 75], [9, 9, 9], [0, 0, 0]]], np.uint8)
    hsv = np.asarray(PIL.Image.fromarray(image).convert("HSV"))[..., 1] / 255
    assert pixels.saturation(image.astype(float)) == pytest.approx(hsv.mean(), abs=0.01) == 0.375


def test_sharpness_falls_with_blur():
    with PIL.Image.open(FOLDER / "images" / "astronaut.png") as image:
        sharp = np.asarray(image.convert("RGB"))
        soft = np.asarray(image.convert("RGB").resize((64, 64)).resize(image.size))
    assert pixels.sharpness(np.full((8, 8, 3), 5.0)) == 0
    assert pixels.sharpness(sharp.astype(float)) > pixels.sharpness(soft.astype(float)) + 1


def dots(period: int, size: int = 64) -> np.ndarray:
    """Red and blue dots in turn on grey, as an over-optimised policy paints them."""
    image = np.full((size, size, 3), 128.0)
    image[::period, ::period] = (255, 0, 0)
    image[period // 2 :: period, period // 2 :: period] = (0, 0, 255)
    return image


@pytest.mark.parametrize("period", [2, 3, 4])
def test_grid_energy_sees_dot_grids(period: int):
    assert pixels.grid_energy(dots(period)) > 0.5


def test_grid_energy_sees_a_faint_grid_on_a_photograph():
    photograph = np.asarray(PIL.Image.open(FOLDER / "images" / "coffee.jpg").convert("RGB")).astype(float)
    clean = pixels.grid_energy(photograph)
    grid = np.zeros_like(photograph)
    grid[::2, ::2] = 60
    assert clean < 0.001 < 0.02 < pixels.grid_energy(np.clip(photograph + grid, 0, 255))


def test_grids_are_looked_for_in_the_middle_of_large_pictures():
    large = np.random.default_rng(0).uniform(0, 20, (1300, 1101, 3))
    middle = pixels.grid_energy(large[138:-138, 38:-39])
    large[:100] = dots(2, 2000)[:100, :1101]
    assert pixels.grid_energy(large) == middle < 0.01


def test_grid_energy_ignores_flat_noisy_and_natural_pictures():
    noise = np.random.default_rng(0).uniform(0, 255, (64, 64, 3))
    assert pixels.grid_energy(np.full((64, 64, 3), 128.0)) == 0
    assert pixels.grid_energy(noise) < 0.01
    for name in ("astronaut.png", "camera_gray.png", "cat_blur.png"):
        with PIL.Image.open(FOLDER / "images" / name) as image:
            assert pixels.grid_energy(np.asarray(image.convert("RGB")).astype(float)) < 0.01


def test_pixel_statistics_stay_in_their_ranges_down_to_one_pixel():
    rng = np.random.default_rng(0)
    images = [
        rng.choice(np.array([0, 255], np.uint8), (h, w, 3)) for h, w in ((1, 1), (1, 9), (2, 2), (33, 20))
    ]
    scorer: Scorer = pixels.build()
    table = scorer.score([*images, b"junk"])
    assert [error is None for error in table.errors] == [True] * 4 + [False]
    for name, (low, high) in scorer.ranges.items():
        column = table.column(name)[:4]
        assert (column >= low).all() and (column <= high).all()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"name": "hpsv9"}, "unknown name 'hpsv9'; known are unipercept, artimuse, clip, pickscore, hpsv2"),
        ({"path": "x"}, "unknown name None"),
        ({"name": "unipercept"}, "option 'path' is missing"),
        (
            {"name": "unipercept", "path": "x", "divice": "cpu"},
            "unknown option 'divice'; its options are: path, device",
        ),
        ({"name": "unipercept", "path": "x", "dtype": "int3"}, "dtype 'int3'"),
        ({"name": "unipercept", "path": "x", "device": "gpu"}, "device 'gpu'"),
        ({"name": "pixels", "path": "x"}, "its options are: none"),
        ({"name": "clip", "path": "x", "formula": "cos"}, "formula 'cos': write cosine"),
        ({"name": "hpsv2", "vision": "x"}, "unknown option 'vision'; its options are: path, version, clip"),
        ({"name": "pyiqa"}, "option 'metric' is missing"),
    ],
)
def test_a_wrong_scorer_config_is_refused_with_the_known_names(spec: dict[str, str], reason: str):
    with pytest.raises(ConfigError, match=reason):
        build_scorer(spec)


def test_no_scorers_are_refused():
    with pytest.raises(ConfigError, match="scorers is empty"):
        build_scorers([])


def test_every_scorer_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text()
    assert [name for name in SCORERS if f"| `{name}` |" not in text] == []


@pytest.mark.skipif(importlib.util.find_spec("pyiqa") is not None, reason="the extra pyiqa is installed")
def test_pyiqa_is_optional_and_its_licence_is_said():
    with pytest.raises(ConfigError, match=r"PolyForm-Noncommercial.*pip install .*\[pyiqa\]"):
        build_scorer({"name": "pyiqa", "metric": "musiq", "device": "cpu"})


class MeanRed:
    """As pyiqa's metrics are called: a float [1, 3, H, W] from 0 to 1, lower is better."""

    score_range = "~0, 1"

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[:2] == (1, 3)
        if pixels.shape[2] < 4:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return pixels[:, 0].mean(dim=(1, 2))


def test_pyiqa_scores_each_image_at_its_own_size():
    scorer = pyiqa.PyiqaScorer(MeanRed(), "redness")
    images: list[ImageLike] = [plain(51, 0), plain(1, 1, (2, 2)), b"junk", plain(255, 3, (9, 5))]
    table = scorer.score(images)
    np.testing.assert_allclose(table.column("redness"), [0.2, np.nan, np.nan, 1], atol=1e-6)
    assert table.errors[1] == "redness failed: Kernel size can't be greater than actual input size"
    assert scorer.ranges == {"redness": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("0, 1", (0, 1)), ("~-1, ~0.1", (-1, 0.1)), ("0, ~", (0, 1000)), (None, (-1000, 1000))],
)
def test_pyiqas_ranges_as_numbers(text: str | None, bounds: tuple[float, float]):
    assert pyiqa.score_range(text) == bounds
