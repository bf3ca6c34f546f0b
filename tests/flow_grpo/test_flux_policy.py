"""The FLUX policy against diffusers' own pipeline, and its adapters."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.policy import text
from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LORA_FILE, LoraConfig
from flow_grpo.sample import sample

TEXTS = ["a red apple", "a blue boat on the sky"]


def model_config(path: Path, **options) -> ModelConfig:
    settings = {
        "dtype": "float32",
        "height": 32,
        "width": 32,
        "max_sequence_length": 32,
        "guidance_scale": 2.5,
    }
    return ModelConfig(path=str(path), lora=LoraConfig(rank=4, alpha=8), **{**settings, **options})


def pipeline(path: Path):
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(str(path))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def move_adapters(policy: FluxPolicy, scale: float = 0.3) -> None:
    """Make the adapters differ from 0, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in policy.trainable.values():
            value.add_(scale * torch.randn(value.shape, generator=generator))


@pytest.mark.parametrize("num_steps, height, width", [(28, 32, 32), (8, 32, 32), (8, 32, 64), (3, 48, 16)])
def test_noise_zero_gives_the_pipelines_latents_and_pictures(flux_path, num_steps, height, width):
    policy = FluxPolicy(model_config(flux_path, height=height, width=width))
    noise = policy.initial_noise([11, 12])
    condition = policy.encode(TEXTS)
    made = sample(lambda x, s: policy.velocity(x, s, condition), noise, policy.sigmas(num_steps))
    pipe = pipeline(flux_path)
    options = dict(
        height=height,
        width=width,
        num_inference_steps=num_steps,
        guidance_scale=2.5,
        max_sequence_length=32,
        generator=[torch.Generator().manual_seed(seed) for seed in (11, 12)],
    )
    latents = pipe(TEXTS, output_type="latent", **options).images
    torch.testing.assert_close(made.final, latents, rtol=1e-5, atol=1e-5)
    pictures = policy.decode(latents)
    options["generator"] = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    expected = np.stack([np.asarray(image) for image in pipe(TEXTS, **options).images])
    assert pictures.shape == (2, height, width, 3) and pictures.dtype == np.uint8
    assert np.abs(pictures.astype(int) - expected).max() <= 1


def test_base_is_frozen_in_bf16_and_adapters_are_float32(flux_path):
    policy = FluxPolicy(model_config(flux_path, dtype="bfloat16"))
    names = set(policy.trainable)
    for name, value in policy.module.named_parameters():
        assert value.requires_grad is (name in names)
        assert value.dtype == (torch.float32 if name in names else torch.bfloat16)
    condition = policy.encode(TEXTS)
    x = policy.initial_noise([1, 2])
    velocity = policy.velocity(x, torch.tensor([0.9, 0.5]), condition)
    velocity.square().sum().backward()
    assert velocity.dtype == torch.float32
    gradients = [value.grad for value in policy.trainable.values() if value.grad is not None]
    assert gradients and all(gradient.dtype == torch.float32 for gradient in gradients)


def test_adapters_are_on_the_recipes_layers(flux_path):
    policy = FluxPolicy(model_config(flux_path))
    layers = {name.split(".lora_")[0] for name in policy.trainable}
    double = {f"transformer_blocks.0.attn.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")}
    double |= {
        f"transformer_blocks.0.attn.{n}" for n in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    }
    double |= {f"transformer_blocks.0.{ff}.net.{n}" for ff in ("ff", "ff_context") for n in ("0.proj", "2")}
    single = {f"single_transformer_blocks.0.attn.{n}" for n in ("to_q", "to_k", "to_v")}
    assert layers == double | single


def test_an_untrained_adapter_changes_nothing_and_reference_switches_a_trained_one_off(flux_path):
    policy = FluxPolicy(model_config(flux_path))
    condition, x, sigma = policy.encode(TEXTS), policy.initial_noise([1, 2]), torch.tensor([0.9, 0.5])
    with torch.no_grad():
        before = policy.velocity(x, sigma, condition)
        move_adapters(policy)
        tuned = policy.velocity(x, sigma, condition)
        with policy.reference():
            reference = policy.velocity(x, sigma, condition)
    assert torch.equal(reference, before)
    assert (tuned - before).abs().max() > 1e-3
    assert all(value.requires_grad for value in policy.trainable.values())


def test_the_exported_lora_in_diffusers_is_the_trained_policy(flux_path, tmp_path):
    policy = FluxPolicy(model_config(flux_path))  # alpha / rank = 2: losing the scale halves the effect
    move_adapters(policy)
    condition, x, sigma = policy.encode(TEXTS), policy.initial_noise([1, 2]), torch.tensor([0.7, 0.7])
    with torch.no_grad():
        tuned = policy.velocity(x, sigma, condition)
        with policy.reference():
            base = policy.velocity(x, sigma, condition)
    assert policy.export(tmp_path, policy.trainable).name == LORA_FILE
    pipe = pipeline(flux_path)
    pipe.load_lora_weights(str(tmp_path))
    tokens, pooled, text_ids = pipe.encode_prompt(TEXTS, max_sequence_length=32)
    _, image_ids = pipe.prepare_latents(2, 8, 32, 32, torch.float32, "cpu", None, x)
    with torch.no_grad():
        loaded = pipe.transformer(
            hidden_states=x,
            timestep=sigma,
            guidance=torch.full((2,), 2.5),
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
    assert (loaded - tuned).abs().max() < 1e-5 < 1e-3 < (base - tuned).abs().max()


def test_export_is_whole_or_not_at_all(flux_path, tmp_path, monkeypatch):
    policy = FluxPolicy(model_config(flux_path))
    file = policy.export(tmp_path, policy.trainable)
    before = file.read_bytes()
    move_adapters(policy)

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        policy.export(tmp_path, policy.trainable)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [LORA_FILE]
    assert all(key.startswith("transformer.") for key in load_file(file))


def test_a_prompts_embedding_is_computed_once_and_does_not_depend_on_the_batch(flux_path, monkeypatch):
    policy = FluxPolicy(model_config(flux_path))
    alone = policy.encode([TEXTS[1]])
    calls = []
    encode = policy.pipeline.encode_prompt

    def counted(text, **options):
        calls.append(text)
        return encode(text, **options)

    monkeypatch.setattr(policy.pipeline, "encode_prompt", counted)
    both = policy.encode([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert calls == [TEXTS[0]]
    assert torch.equal(both.tensors["tokens"][1], alone.tensors["tokens"][0])
    assert torch.equal(both.tensors["tokens"][0], both.tensors["tokens"][2])


def test_only_the_latest_prompts_stay_in_memory(flux_path, monkeypatch):
    monkeypatch.setattr(text, "REMEMBERED", 1)
    policy = FluxPolicy(model_config(flux_path))
    both = policy.encode(TEXTS).tensors["tokens"]
    assert len(both) == 2 and list(policy.texts._remembered) == [TEXTS[1]]
    assert torch.equal(policy.encode([TEXTS[0]]).tensors["tokens"][0], both[0])
    assert list(policy.texts._remembered) == [TEXTS[0]]


def test_steps_in_one_forward_equal_steps_alone(flux_path):
    policy = FluxPolicy(model_config(flux_path))
    condition, x = policy.encode(TEXTS), policy.initial_noise([1, 2])
    sigma = torch.tensor([0.9, 0.3])
    with torch.no_grad():
        both = policy.velocity(x, sigma, condition)
        second = policy.velocity(x[1:], sigma[1:], condition.take(torch.tensor([1])))
    torch.testing.assert_close(both[1:], second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: p / "nowhere" / "else", r"model\.path is .*there is no such folder"),
        (lambda p: p, r"a folder without model_index\.json"),
    ],
)
def test_a_model_that_is_not_there_is_named(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        FluxPolicy(model_config(make(tmp_path)))


def test_a_broken_model_folder_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model\.path .* cannot be loaded as a FluxPipeline"):
        FluxPolicy(model_config(tmp_path))


def test_a_resolution_that_does_not_fit_is_refused(flux_path):
    with pytest.raises(ValueError, match=r"height is 36 and model\.width 32; both must be multiples of 8"):
        FluxPolicy(model_config(flux_path, height=36))


def test_targets_that_match_nothing_are_refused(flux_path):
    lora = LoraConfig(targets=["nope"])
    config = ModelConfig(path=str(flux_path), dtype="float32", height=32, width=32, lora=lora)
    with pytest.raises(ValueError, match=r"model\.lora\.targets \['nope'\] match no layer"):
        FluxPolicy(config)
