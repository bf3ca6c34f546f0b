"""Checkpointing, attention backends and compilation change how the model is computed, not what."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.policy import engine
from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LORA_FILE, LoraConfig
from flow_grpo.policy.sd3 import SD3Policy
from flow_grpo.train import main
from tests.tiny_pipelines import tiny_sd3


@pytest.fixture(scope="module")
def deep(flux_path, tmp_path_factory) -> Path:
    """The tiny FLUX with 2 two-stream and 3 one-stream blocks."""
    from diffusers import FluxTransformer2DModel

    path = shutil.copytree(flux_path, tmp_path_factory.mktemp("deep") / "flux")
    config = FluxTransformer2DModel.load_config(str(path / "transformer"))
    shutil.rmtree(path / "transformer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FluxTransformer2DModel.from_config({**config, "num_layers": 2, "num_single_layers": 3})
    model.save_pretrained(path / "transformer")
    return path


def build(path: Path, **options) -> FluxPolicy:
    settings = {"dtype": "float32", "height": 32, "width": 32, "max_sequence_length": 32, **options}
    policy = FluxPolicy(ModelConfig(path=str(path), lora=LoraConfig(rank=4, alpha=8), **settings))
    generator = torch.Generator().manual_seed(0)
    for value in policy.trainable.values():
        value.data.add_(0.1 * torch.randn(value.shape, generator=generator))
    return policy


def gradients(policy: FluxPolicy) -> dict[str, torch.Tensor]:
    sigma = torch.tensor([0.9, 0.5])
    velocity = policy.velocity(policy.initial_noise([1, 2]), sigma, policy.encode(["a red apple", "grass"]))
    velocity.square().sum().backward()
    return {name: value.grad for name, value in policy.trainable.items() if value.grad is not None}


@pytest.mark.parametrize(
    "every, recomputed", [(False, []), (True, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3])]
)
def test_checkpointing_recomputes_every_nth_block_and_gives_the_same_gradients(deep, every, recomputed):
    policy = build(deep, gradient_checkpointing=every)
    module: Any = policy.module
    blocks = [*module.transformer_blocks, *module.single_transformer_blocks]
    calls: Counter[int] = Counter()
    for number, block in enumerate(blocks):
        # Of the block's insides: checkpointing calls the block itself in either case.
        block.attn.register_forward_pre_hook(lambda *_, number=number: calls.update([number]))
    made = gradients(policy)
    assert calls == {number: 1 + (number in recomputed) for number in range(5)}
    for name, value in gradients(build(deep)).items():
        torch.testing.assert_close(made[name], value, rtol=1e-6, atol=0)


def test_checkpointing_costs_nothing_where_no_gradient_is_needed(deep):
    policy = build(deep, gradient_checkpointing=True)
    kept: list[int] = []
    module: Any = policy.module
    module._gradient_checkpointing_func = lambda *_: kept.append(1)
    with torch.no_grad():
        policy.velocity(policy.initial_noise([1]), torch.tensor([0.5]), policy.encode(["grass"]))
    assert not kept


@pytest.mark.parametrize("name", ["_native_math", "native_math"])
def test_an_attention_backend_is_used_and_computes_the_same(deep, name):
    policy, plain = build(deep, attention=name), build(deep)
    module: Any = policy.module
    used = {block.attn.processor._attention_backend for block in module.transformer_blocks}
    assert [backend.value for backend in used] == ["_native_math"]
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    _AttentionBackendRegistry.set_active_backend("native")
    made = gradients(policy)
    for key, value in gradients(plain).items():
        torch.testing.assert_close(made[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, reason",
    [("flsh", "unknown"), ("flash", "flash-attn"), ("flash_3", "FA3"), ("sage", "sageattention")],
)
def test_a_backend_that_is_not_there_is_refused_with_those_that_are(deep, name, reason):
    message = (
        rf"model\.attention is '{name}': .*{reason}.* Usable here for float32 on cpu: .*native.*native_math"
    )
    with pytest.raises(ValueError, match=message):
        build(deep, attention=name)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda output: output.detach(), "does not require grad"),
        (lambda output: 2 * output, "not that of attent"),
    ],
)
def test_a_kernel_without_backward_pass_or_with_wrong_numbers_is_refused(deep, monkeypatch, change, reason):
    """diffusers' flash_3 has no backward pass; here torch's own attention stands in, changed."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    whole = _AttentionBackendRegistry._backends[AttentionBackendName._NATIVE_MATH]
    changed = {AttentionBackendName._NATIVE_MATH: lambda *a, **k: change(whole(*a, **k))}
    known = {**_AttentionBackendRegistry._backends, **changed}
    monkeypatch.setattr(_AttentionBackendRegistry, "_backends", known)
    with pytest.raises(ValueError, match=rf"'native_math': .*{reason}.* Usable here"):
        build(deep, attention="native_math")


def test_a_kernel_that_cannot_mask_is_refused_for_models_that_mask(monkeypatch):
    """diffusers' flash kernels are such; here torch's own stands in, refusing a mask as they do."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    whole = _AttentionBackendRegistry._backends[AttentionBackendName._NATIVE_MATH]

    def without_mask(*inputs, attn_mask=None, **options):
        if attn_mask is not None:
            raise ValueError("`attn_mask` is not supported.")
        return whole(*inputs, attn_mask=None, **options)

    changed = {**_AttentionBackendRegistry._backends, AttentionBackendName._NATIVE_MATH: without_mask}
    monkeypatch.setattr(_AttentionBackendRegistry, "_backends", changed)
    assert engine.trial("_native_math", "cpu", torch.float32) == ""
    assert "is not supported" in engine.trial("_native_math", "cpu", torch.float32, masked=True)
    assert engine.trial("native", "cpu", torch.float32, masked=True) == ""


def test_stable_diffusion_3_has_no_other_attention(tmp_path):
    config = ModelConfig(path=str(tiny_sd3(tmp_path)), height=32, width=32, attention="native_math")
    with pytest.raises(ValueError, match=r"a SD3Transformer2DModel computes its attention with torch's own"):
        SD3Policy(config)


def test_compiled_blocks_have_the_same_gradients_names_and_reference(flux_path, tmp_path):
    """With torch's tracing but without its code generation, which takes minutes."""
    plain, policy = build(flux_path), build(flux_path)
    torch._dynamo.reset()
    engine.compile_blocks(policy.module, backend="eager")
    made = gradients(policy)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 2, "nothing was compiled"
    for key, value in gradients(plain).items():
        torch.testing.assert_close(made[key], value, rtol=1e-4, atol=1e-6)
    x, sigma, condition = policy.initial_noise([1, 2]), torch.tensor([0.9, 0.5]), policy.encode(["a", "b"])
    with torch.no_grad(), policy.reference(), plain.reference():
        reference = [one.velocity(x, sigma, condition) for one in (policy, plain)]
    torch.testing.assert_close(*reference, rtol=1e-4, atol=1e-6)
    files = [one.export(tmp_path / str(n), one.trainable) for n, one in enumerate((policy, plain))]
    assert load_file(files[0]).keys() == load_file(files[1]).keys()


@pytest.mark.skipif("TEST_INDUCTOR" not in os.environ, reason="compiles for minutes; set TEST_INDUCTOR=1")
@pytest.mark.timeout(1800)
def test_compiled_blocks_train_resume_and_export_like_uncompiled_ones(arguments, flux_path, tmp_path):
    options = {"prompts__validation": "null", "regularizer__kl_weight": 0.1}
    weights = {}
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        run = tmp_path / name
        for iterations in (1, 2):  # the second resumes
            given = arguments(run_dir=run, model__compile=compiled, iterations=iterations, **options)
            assert main(given) == 0
        weights[name] = load_file(run / LORA_FILE)
    assert not torch._dynamo.utils.counters["recompile_limit"]
    for key, value in weights["plain"].items():
        # AdamW's first steps are lr times a gradient's sign: where a gradient is nearly 0 it is rounding's.
        assert (value - weights["compiled"][key]).abs().median() < 1e-5, key
