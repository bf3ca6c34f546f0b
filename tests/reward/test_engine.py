"""The rating engine's options: what each changes, and that none changes what it must not."""

import threading

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reward_plugin.checkpoint import Checkpoint, load_checkpoint
from reward_plugin.decoder import split_attention
from reward_plugin.devices import check_attention, check_backend
from reward_plugin.errors import ConfigError
from reward_plugin.images import to_rgb, to_rgb_each
from reward_plugin.internvl import RatingEngine, pack
from reward_plugin.prepare import ahead, picture, to_input
from reward_plugin.prompting import UNIPERCEPT_QUESTIONS
from tests.reward.golden import CHECKPOINT, TOLERANCE, expected


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def half() -> Checkpoint:
    return load_checkpoint(CHECKPOINT, dtype=torch.bfloat16)


def engine(checkpoint: Checkpoint, **options) -> RatingEngine:
    return RatingEngine(checkpoint, UNIPERCEPT_QUESTIONS, **options)


def two_answers(low: int, share: float) -> torch.Tensor:
    """Logits [101] of an answer that is `low` with probability 1 - share, else low + 1."""
    logits = torch.full((101,), -80.0)
    logits[low], logits[low + 1] = 0.0, float(np.log(share / (1 - share)))
    return logits


@pytest.mark.parametrize(
    ("low", "share", "exact", "published"),
    [
        (70, 0.30, 70.30, 70.5),  # steps of 0.5 from 64 on
        (70, 0.125, 70.125, 70.0),
        (40, 0.30, 40.30, 40.25),  # steps of 0.25 from 32 to 64
        (40, 0.40, 40.40, 40.5),
    ],
)
def test_published_precision_rounds_as_bfloat16_does(half, low, share, exact, published):
    logits = two_answers(low, share)
    plain, rounded = engine(half), engine(half, precision="published")
    assert float(plain.expectation(logits)) == pytest.approx(exact, abs=1e-4)
    assert float(rounded.expectation(logits)) == published


def test_published_precision_gives_bfloat16_steps_on_images(half):
    images, values = expected("scores")
    scores = engine(half, precision="published").rate(to_rgb_each(images)[0])
    assert np.abs(scores - values).max() < 2
    step = 2.0 ** (np.floor(np.log2(scores)) - 7)  # bfloat16 keeps 8 bits
    np.testing.assert_array_equal(scores % step, 0)


def test_published_precision_changes_nothing_in_float32(checkpoint):
    images, values = expected("scores")
    scores = engine(checkpoint, precision="published").rate(to_rgb_each(images[:1])[0])
    np.testing.assert_allclose(scores, values[:1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precision": "bf16"}, "precision 'bf16': write float32 or published"),
        ({"resize": "cuda"}, "resize 'cuda': write pil or torch"),
        ({"batch_size": 0}, "batch_size 0: it must be at least 1"),
    ],
)
def test_an_unknown_option_is_refused(checkpoint, option, message):
    with pytest.raises(ConfigError, match=message):
        engine(checkpoint, **option)


def flash_reference(module, q, k, v, attention_mask, scaling, is_causal, **options):
    """What flash-attention documents: grouped heads, no mask, causal up to the end of the keys."""
    assert attention_mask is None
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], 1) for each in (k, v))
    scores = q @ k.transpose(-1, -2) * scaling
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + k.shape[2] - q.shape[2])
        scores = scores.masked_fill(later, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2), None


def test_flash_attention_computes_the_same(checkpoint):
    images, values = expected("scores")
    ALL_ATTENTION_FUNCTIONS.register("flash_reference", flash_reference)
    core = checkpoint.model.model
    configs = [core.vision_tower.encoder.layer[0].attention.config, core.language_model.config]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "flash_reference"
        scores = engine(checkpoint).rate(to_rgb_each(images[:1])[0])
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
    np.testing.assert_allclose(scores, values[:1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("attention", "device", "dtype", "message"),
    [
        ("flash_attention_2", "cpu", torch.bfloat16, r"bfloat16 model on cpu: .*use attention sdpa"),
        ("flash_attention_2", "cuda", torch.float32, r"float32 model on cuda: .*use attention sdpa"),
        ("flash_attention_2", "cuda", torch.bfloat16, r"flash_attn, .*not installed; use .*sdpa.*\[flash\]"),
        ("flash_attention_3", "cuda", torch.float16, r"flash_attn_interface, which is not installed"),
        ("flash", "cpu", torch.float32, "attention 'flash': write sdpa, eager, flash_attention_2"),
    ],
)
def test_attention_that_cannot_compute_here_says_what_to_do(attention, device, dtype, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        check_attention(attention, torch.device(device), dtype)


def test_attention_is_looked_at_before_the_weights(tmp_path):
    with pytest.raises(ConfigError, match="flash-attention computes in"):
        load_checkpoint(tmp_path, attention="flash_attention_2")


def test_a_compiler_that_is_missing_is_told_at_once(checkpoint):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nat all")

    with pytest.raises(ConfigError, match=r"does not work here \(.*no compiler.*install them, or leave"):
        check_backend(broken, torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="backend 'nothing' does not work here"):
        engine(checkpoint, compile="nothing")


def test_attention_is_split_where_the_suffixes_begin(checkpoint):
    decoder = checkpoint.model.model.language_model  # 6 query heads on 2 key-value heads
    packed = pack([[7, 8, 1, 2], [7, 8, 3], [7, 8, 3, 4]])
    split = split_attention(decoder, packed.prefix, packed.ends, packed.visible[list(packed.ends)])
    assert split.suffixes.tolist() == [2, 3, 4, 4, 5, 6]  # the short second one is filled up
    assert split.back.tolist() == [0, 1, 2, 4, 5]
    assert split.read.tolist() == [3, 4, 6]
    visible = (split.suffix_mask[::3] == 0).int().tolist()
    assert visible == [[1, 1, 1, 0], [1, 1, 1, 1]]
    reads = (split.read_mask[::3] == 0).int().tolist()
    assert reads == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1, 1]]


def test_compiled_layers_give_the_same_scores():
    images, values = expected("scores")
    compiled = engine(load_checkpoint(CHECKPOINT), compile="eager")  # traced, run without generated code
    torch._dynamo.utils.counters.clear()  # other graphs than the layers' have been counted before
    scores = compiled.rate(to_rgb_each(images[:2])[0])
    np.testing.assert_allclose(scores, values[:2], rtol=0, atol=TOLERANCE)
    stats = torch._dynamo.utils.counters["stats"]
    assert 0 < stats["unique_graphs"] <= 4, "layers of one kind share their code"


def test_torch_resizes_like_pil_to_one_level():
    images, _ = expected("scores")
    pictures = to_rgb_each(images)[0]
    exact = to_input([picture(image, 64) for image in pictures], 64)
    on_device = to_input([picture(image, 64, "torch") for image in pictures], 64)
    one_level = 1 / 255 / 0.224
    difference = (exact - on_device).abs()
    assert 0 < difference.max() <= one_level * 1.05
    assert difference.mean() < one_level / 4


def test_files_are_rated_in_order_and_bad_ones_say_why(checkpoint, tmp_path):
    images, values = expected("scores")
    (tmp_path / "empty.png").touch()
    mixed = [images[3], tmp_path / "empty.png", to_rgb(images[4]), np.zeros((3, 3), np.uint8), images[2]]
    scores, errors = engine(checkpoint, batch_size=2).rate_each(mixed)
    np.testing.assert_allclose(scores, values[[3, 4, 2]], rtol=0, atol=TOLERANCE)
    assert [error is None for error in errors] == [True, False, True, False, True]
    assert "empty.png" in str(errors[1]) and "uint8 [height, width, 3]" in str(errors[3])


def test_pictures_are_turned_upright_where_asked(checkpoint, tmp_path):
    picture = to_rgb(expected("scores")[0][1])
    tag = PIL.Image.Exif()
    tag[0x0112] = 3  # upside down
    file = tmp_path / "turned.png"
    picture.transpose(PIL.Image.Transpose.ROTATE_180).save(file, exif=tag)
    upright = engine(checkpoint).rate([picture])
    np.testing.assert_array_equal(engine(checkpoint).rate_each([file], exif="apply")[0], upright)
    assert np.abs(engine(checkpoint).rate_each([file])[0] - upright).max() > TOLERANCE


def test_work_runs_ahead_but_only_so_far():
    seen, here = [], threading.get_ident()

    def work(item: int) -> tuple[int, bool]:
        seen.append(item)
        return item, threading.get_ident() != here

    results = ahead(work, iter(range(100)), threads=2, waiting=5)
    assert next(results) == (0, True)
    assert [next(results) for _ in range(3)] == [(1, True), (2, True), (3, True)]
    results.close()
    assert max(seen) <= 3 + 5


def test_an_error_in_a_thread_is_raised_in_its_turn():
    results = ahead(lambda x: 1 // x, [1, 0, 1], threads=1, waiting=3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
