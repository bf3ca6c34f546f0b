"""Stable Diffusion 3.5 and Qwen-Image against diffusers' own pipelines, and through the trainer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.policy import build_policy
from flow_grpo.policy.flux import ModelConfig
from flow_grpo.policy.lora import LORA_FILE, LoraConfig
from flow_grpo.policy.qwen_image import QwenImagePolicy
from flow_grpo.policy.sd3 import SD3Policy
from flow_grpo.sample import sample
from flow_grpo.train import main
from tests.tiny_pipelines import tiny_qwen_image, tiny_sd3

TEXTS = ["a red apple", "a blue boat on the sky and the grass"]
CLASSES: dict[str, type] = {"sd3": SD3Policy, "qwen": QwenImagePolicy}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("models")
    return {"sd3": tiny_sd3(parent / "sd3"), "qwen": tiny_qwen_image(parent / "qwen")}


def build(path: Path, **options) -> Any:
    settings = {
        "dtype": "float32",
        "height": 32,
        "width": 32,
        "max_sequence_length": 32,
        "guidance_scale": 4.0,
    }
    return build_policy(
        ModelConfig(path=str(path), lora=LoraConfig(rank=4, alpha=8), **{**settings, **options})
    )


def pipeline(name: str, path: Path, **parts):
    import diffusers

    kind = {"sd3": "StableDiffusion3Pipeline", "qwen": "QwenImagePipeline"}[name]
    pipe = getattr(diffusers, kind).from_pretrained(str(path), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(name: str, pipe: Any, guidance: float, negative: str, **options) -> Any:
    """The pipeline's own pictures or latents."""
    scale = {"sd3": "guidance_scale", "qwen": "true_cfg_scale"}[name]
    generator = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    settings = {scale: guidance, "max_sequence_length": 32, "generator": generator, **options}
    if guidance > 1:
        settings["negative_prompt"] = [negative] * len(TEXTS)
    return pipe(TEXTS, **settings).images


def move_adapters(policy: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for value in policy.trainable.values():
        value.data.add_(0.3 * torch.randn(value.shape, generator=generator))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "guidance, negative, height, width, steps",
    [(1.0, None, 32, 32, 3), (4.0, None, 32, 48, 5), (3.0, "grass", 24, 32, 2)],
)
def test_noise_zero_gives_the_pipelines_latents_and_pictures(
    folders, name, guidance, negative, height, width, steps
):
    policy = build(
        folders[name], guidance_scale=guidance, negative_prompt=negative, height=height, width=width
    )
    kind = type(policy)
    assert kind is CLASSES[name]
    noise, condition = policy.initial_noise([11, 12]), policy.encode(TEXTS)
    assert noise.shape[1:] == policy.latent_shape
    made = sample(lambda x, s: policy.velocity(x, s, condition), noise, policy.sigmas(steps))
    default = {"sd3": "", "qwen": " "}[name] if negative is None else negative
    options = {"height": height, "width": width, "num_inference_steps": steps}
    pipe = pipeline(name, folders[name])
    latents = call(name, pipe, guidance, default, output_type="latent", **options)
    torch.testing.assert_close(made.final, latents, rtol=1e-4, atol=1e-5)
    expected = np.stack([np.asarray(image) for image in call(name, pipe, guidance, default, **options)])
    pictures = policy.decode(latents)
    assert pictures.shape == (2, height, width, 3) and pictures.dtype == np.uint8
    assert np.abs(pictures.astype(int) - expected).max() <= 1
    assert expected.std() > 1, "grey pictures prove nothing"


@pytest.mark.parametrize("name", CLASSES)
def test_every_adapter_gets_a_float32_gradient_on_a_bf16_base(folders, name):
    """One that never does stops DistributedDataParallel."""
    policy = build(folders[name], dtype="bfloat16")
    move_adapters(policy)
    condition = policy.encode(TEXTS)
    assert condition.tensors["tokens"].dtype == torch.bfloat16
    velocity = policy.velocity(policy.initial_noise([1, 2]), torch.tensor([0.9, 0.5]), condition)
    velocity.square().sum().backward()
    assert velocity.dtype == torch.float32
    for key, value in policy.trainable.items():
        assert value.grad is not None and value.grad.abs().max() > 0, key
        assert value.dtype == value.grad.dtype == torch.float32


@pytest.mark.parametrize("name", CLASSES)
def test_reference_switches_the_adapters_off(folders, name):
    policy = build(folders[name])
    condition, x, sigma = policy.encode(TEXTS), policy.initial_noise([1, 2]), torch.tensor([0.9, 0.5])
    with torch.no_grad():
        before = policy.velocity(x, sigma, condition)
        move_adapters(policy)
        with policy.reference():
            assert torch.equal(policy.velocity(x, sigma, condition), before)
        assert (policy.velocity(x, sigma, condition) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", CLASSES)
def test_a_sample_does_not_depend_on_its_batch(folders, name):
    policy = build(folders[name])
    condition, x, sigma = policy.encode(TEXTS), policy.initial_noise([1, 2]), torch.tensor([0.9, 0.5])
    with torch.no_grad():
        both = policy.velocity(x, sigma, condition)
        # Alone, the shorter prompt is not padded.
        alone = policy.velocity(x[:1], sigma[:1], policy.encode(TEXTS[:1]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_the_cache_holds_the_negative_prompt_too(folders, name, tmp_path):
    expected = build(folders[name]).encode(TEXTS).tensors
    filling = build(folders[name], text_cache=str(tmp_path))
    assert len(filling.texts.missing(TEXTS)) == 3
    filling.encode(TEXTS)
    again = build(folders[name], text_cache=str(tmp_path))
    again._text_side._load = lambda: pytest.fail("every prompt is on disk, but an encoder was loaded")
    assert again.pipeline.text_encoder is None and not again.texts.missing(TEXTS)
    for key, value in again.encode(TEXTS).tensors.items():
        assert torch.equal(value, expected[key]), key


def test_sd3_without_t5_works_as_in_diffusers(tmp_path):
    path = tiny_sd3(tmp_path / "model", without_t5=True)
    pipe = pipeline("sd3", path, text_encoder_3=None, tokenizer_3=None)
    expected = pipe.encode_prompt(TEXTS, None, None, max_sequence_length=32)
    for cache in (None, str(tmp_path / "cache")):
        tensors = build(path, text_cache=cache).encode(TEXTS).tensors
        for key, value in zip(
            ("tokens", "negative_tokens", "pooled", "negative_pooled"), expected, strict=True
        ):
            torch.testing.assert_close(tensors[key], value)


@pytest.mark.parametrize("name", CLASSES)
def test_training_moves_the_lora_alike_in_any_micro_batch_and_diffusers_loads_it(
    folders, name, arguments, tmp_path
):
    options = {
        "model__path": folders[name],
        "model__guidance_scale": 2.0,
        "prompts__validation": "null",
        "iterations": 1,
        "sampler__window__size": 1,
    }
    weights = []
    for size in (8, 3):
        run = tmp_path / str(size)
        assert main(arguments(run_dir=run, optimizer__micro_batch=size, **options)) == 0
        weights.append(load_file(run / LORA_FILE))
    moved = 0.0
    for key, value in weights[0].items():
        # AdamW's first step is lr times a gradient's sign: where a gradient is nearly 0 it is rounding's.
        assert (value - weights[1][key]).abs().median() < 1e-6, key
        moved = max(moved, float(value.abs().max()) if "lora_B" in key else 0.0)
    assert moved > 1e-5, "B was 0"

    policy = build(folders[name])
    condition, x, sigma = policy.encode(TEXTS), policy.initial_noise([1, 2]), torch.tensor([0.7, 0.7])
    with torch.no_grad():
        move_adapters(policy)
        tuned = policy.velocity(x, sigma, condition)
        with policy.reference():
            base = policy.velocity(x, sigma, condition)
        policy.export(tmp_path, policy.trainable)
        pipe = pipeline(name, folders[name])
        pipe.load_lora_weights(str(tmp_path))
        policy.module = pipe.transformer
        loaded = policy.velocity(x, sigma, condition)
    assert (loaded - tuned).abs().max() < 1e-4 < 1e-3 < (base - tuned).abs().max()


def test_a_grid_that_the_scheduler_does_not_have_is_refused(folders):
    with pytest.raises(ValueError, match="no grid of 1 steps"):
        build(folders["qwen"]).sigmas(1)


def test_a_pipeline_that_cannot_be_trained_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxFillPipeline"}')
    with pytest.raises(ValueError, match=r"holds a FluxFillPipeline; .* FluxPipeline, StableDiffusion3Pipe"):
        build(tmp_path)
