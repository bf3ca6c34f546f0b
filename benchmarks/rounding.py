"""What int4 and fp8 of `reward_plugin.quantise` round, in ordinary arithmetic and so on any device.

Their kernels run on CUDA only. What they cost in points comes from the rounding, which needs no kernel: here
weights, and for fp8 activations too, are rounded as torchao does it and multiplied in the model's own dtype.
What remains apart from a kernel is the order of its sums.

    int4  16 equal steps from the minimum to the maximum of each 128 values in a row; scale and middle in the
          weight's dtype (torchao's `tinygemm`); rows are filled up with zeros to a multiple of 1024
    fp8   float8 e4m3 of value / scale, scale = largest magnitude of the row / 448; activations at every call,
          a row for each token

Shapes:  O output features, I input features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

KINDS = ("int4", "fp8")

GROUP = 128
PADDING = 1024
LARGEST_E4M3 = 448.0


def int4(weight: torch.Tensor) -> torch.Tensor:
    """A weight [O, I] rounded to 4 bits and back, in its own dtype."""
    columns = weight.shape[1]
    groups = F.pad(weight, (0, -columns % PADDING)).unflatten(1, (-1, GROUP))
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = ((high - low) / 15).clamp_min(torch.finfo(weight.dtype).smallest_normal)
    middle = low + scale * 8
    steps = ((groups - (middle - scale * 8)) / scale).round().clamp(0, 15)
    return ((steps - 8) * scale + middle).flatten(1)[:, :columns].contiguous()


def fp8(values: torch.Tensor) -> torch.Tensor:
    """Values [..., I] rounded to float8 e4m3 with a scale to each row, and back, in their own dtype."""
    scale = (values.abs().amax(-1, keepdim=True) / LARGEST_E4M3).float()
    scaled = values.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)
    return (scaled.clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn).float() * scale).to(
        values.dtype
    )


@torch.no_grad()
def apply(model: nn.Module, kind: str) -> None:
    """Round the decoder's linear layers in place, those that `reward_plugin.quantise` changes.

    Args:
        model: an `InternVLForConditionalGeneration`.
        kind: one of `KINDS`.
    """
    from reward_plugin.quantise import in_decoder

    for name, module in model.named_modules():
        if in_decoder(module, name):
            module.weight.copy_({"int4": int4, "fp8": fp8}[kind](module.weight))
            if kind == "fp8":
                module.register_forward_pre_hook(_round_input)


def _round_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return fp8(inputs[0]), *inputs[1:]
