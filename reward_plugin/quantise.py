"""Fewer bits for the decoder's weights, through torchao (extra `quantise`).

Only the linear layers of the language model's blocks are changed, nine tenths of the real model's weights.
The vision tower, the projector, the embeddings and the head, whose 101 rows decide the score, keep their
dtype. What a kind costs in points is printed by `benchmarks/score_deltas.py`.

    kind   weights                              computes in       runs on
    int8   8 bit, one scale to a row            the model's dtype CPU and CUDA
    int4   4 bit, one scale to 128 values       bfloat16          CUDA, compute capability 8.0 on
    fp8    float8 e4m3, one scale to a row,     float8            CUDA, compute capability 8.9 on
           and activations likewise
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from reward_plugin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)

KINDS = ("int8", "int4", "fp8")

#: kind -> lowest compute capability of a CUDA device
_CUDA_ONLY = {"int4": (8, 0), "fp8": (8, 9)}


def apply(model: Model, kind: str) -> Model:
    """Quantise a loaded InternVL in place.

    Args:
        model: an `InternVLForConditionalGeneration` on its final device, in its final dtype.
        kind: one of `KINDS`.

    Returns:
        the same model.

    Raises:
        ConfigError: the kind is unknown, cannot run on this device or in this dtype, or torchao is missing.
    """
    if kind not in KINDS:
        raise ConfigError(f"quantise {kind!r}: write {', '.join(KINDS)}, or null for none")
    _check_device(model, kind)
    try:
        from torchao.quantization import quantize_
    except ImportError as error:
        raise ConfigError(
            f"quantise {kind!r} needs torchao ({error}); install it with "
            "`pip install 'flow-grpo-perceptual[quantise]'`"
        ) from None
    quantize_(model, _config(kind), filter_fn=in_decoder)
    return model


def _check_device(model: nn.Module, kind: str) -> None:
    import torch

    weight = next(model.parameters())
    if kind not in _CUDA_ONLY:
        return
    if weight.device.type != "cuda":
        raise ConfigError(
            f"quantise {kind!r} computes on CUDA only, and the model is on {weight.device}; "
            "use quantise int8, or device cuda"
        )
    if weight.dtype != torch.bfloat16:
        raise ConfigError(f"quantise {kind!r} needs dtype bfloat16; the model is {weight.dtype}")
    capability = torch.cuda.get_device_capability(weight.device)
    if capability < _CUDA_ONLY[kind]:
        raise ConfigError(
            f"quantise {kind!r} needs compute capability {'.'.join(map(str, _CUDA_ONLY[kind]))}; "
            f"{torch.cuda.get_device_name(weight.device)} has {'.'.join(map(str, capability))}: "
            "use quantise int8"
        )


def _config(kind: str) -> Any:
    from torchao import quantization as ao

    if kind == "int8":
        return ao.Int8WeightOnlyConfig(set_inductor_config=False)
    if kind == "int4":
        # The layout of torch's own int4 kernel; the default one needs a further package.
        return ao.Int4WeightOnlyConfig(
            group_size=128, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    return ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow(), set_inductor_config=False)


def in_decoder(module: nn.Module, name: str) -> bool:
    """Whether a module of the model is a linear layer of the language model's blocks."""
    from torch import nn

    return isinstance(module, nn.Linear) and "language_model.layers." in name
