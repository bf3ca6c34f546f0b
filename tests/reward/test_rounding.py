"""The rounding of int4 and fp8 without their kernels, by closed form and against torchao's own."""

import importlib.util

import pytest
import torch

from benchmarks import rounding
from reward_plugin.checkpoint import load_checkpoint
from tests.reward.golden import CHECKPOINT

installed = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="extra quantise is absent")


def weights(rows: int = 6, columns: int = 300, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_int4_keeps_sixteen_even_steps_of_each_group_and_their_ends():
    weight = weights()
    rounded = rounding.int4(weight)
    for row, kept in zip(weight, rounded, strict=True):
        for group, steps in zip(row.split(128), kept.split(128), strict=True):
            low, high = (
                (group.min(), group.max())
                if len(group) == 128
                else (group.min().clamp_max(0), group.max().clamp_min(0))  # filled up with zeros
            )
            step = (high - low) / 15
            places = (steps - low) / step
            assert torch.allclose(places, places.round(), atol=1e-4)
            assert (steps - group).abs().max() <= step * 0.5001
    assert torch.allclose(
        rounded[:, :256].unflatten(1, (2, 128)).amax(2), weight[:, :256].unflatten(1, (2, 128)).amax(2)
    )


def test_fp8_keeps_three_bits_behind_the_point_and_the_largest_of_each_row():
    values = weights() * torch.logspace(-3, 3, 6)[:, None]
    rounded = rounding.fp8(values)
    assert torch.allclose(rounded.abs().amax(1), values.abs().amax(1), rtol=1e-6)
    coarse = values.abs().amax(1, keepdim=True) / 448 * 2**-6  # below it numbers are subnormal
    assert ((rounded - values).abs() <= torch.maximum(values.abs() / 16, coarse / 16)).all()
    assert not torch.equal(rounded, values)
    assert torch.equal(rounding.fp8(torch.zeros(2, 3)), torch.zeros(2, 3))


@installed
def test_both_are_torchaos_rounding():
    from torchao.quantization import PerRow, quant_primitives
    from torchao.quantization.quantize_.workflows import Float8Tensor

    weight = weights(8, 2048, torch.bfloat16)
    theirs = Float8Tensor.from_hp(weight, granularity=PerRow()).dequantize()
    assert torch.allclose(rounding.fp8(weight), theirs, rtol=2**-7)  # they multiply in bfloat16
    block, steps = (1, 128), (torch.int32, 0, 15)
    scale, zero = quant_primitives._choose_qparams_affine_tinygemm(
        weight, quant_primitives.MappingType.ASYMMETRIC, block, *steps
    )
    codes = quant_primitives._quantize_affine_tinygemm(weight, block, scale, zero, *steps)
    back = quant_primitives._dequantize_affine_tinygemm(
        codes, block, scale, zero, *steps, output_dtype=torch.bfloat16
    )
    assert torch.equal(rounding.int4(weight), back)


@pytest.mark.parametrize("kind", rounding.KINDS)
def test_the_decoders_layers_are_rounded_and_no_other(kind):
    model = load_checkpoint(CHECKPOINT).model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    rounding.apply(model, kind)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {n for n in before if "language_model.layers." in n and n.endswith("proj.weight")}
    layer = model.get_submodule(next(iter(changed)).removesuffix(".weight"))
    x = weights(3, layer.in_features)
    seen = rounding.fp8(x) if kind == "fp8" else x
    assert torch.equal(layer(x), torch.nn.functional.linear(seen, layer.weight, layer.bias))
