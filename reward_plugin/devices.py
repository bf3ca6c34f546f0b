"""Device, dtype and attention options as they are written in a config."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reward_plugin.errors import ConfigError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
#: attention implementation of transformers -> the package it needs besides torch
ATTENTIONS: Mapping[str, str | None] = {
    "sdpa": None,
    "eager": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}


def resolve(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Turn option texts into torch's objects.

    Args:
        device: "auto" (CUDA where there is any, else CPU), or what `torch.device` takes.
        dtype: "auto" (bfloat16 on CUDA, else float32), or one of `DTYPES`.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r}: write auto, cpu, cuda or cuda:N") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device!r}: torch sees no CUDA GPU here; use cpu or auto, or install a CUDA build"
        )
    if dtype == "auto":
        dtype = "bfloat16" if where.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: write auto, {', '.join(DTYPES)}")
    return where, getattr(torch, dtype)


def check_backend(backend: str, device: torch.device) -> None:
    """Compile a small function, so that what is missing shows at once and not at the first batch.

    Raises:
        ConfigError: torch.compile has no such backend, or it does not work here.
    """
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.zeros(8, device=device))
    except Exception as error:  # of torch, of the compiler, of the operating system
        reason = " ".join(" ".join(line.split()) for line in str(error).strip().splitlines()[:2])
        raise ConfigError(
            f"compile: torch.compile's backend {backend!r} does not work here ({type(error).__name__}: "
            f"{reason}); inductor needs a C++ compiler such as g++ and Python's header files: install them, "
            "or leave compile out"
        ) from error


def check_attention(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse an attention implementation that cannot compute here, before minutes of loading.

    Where flash-attention is not installed, transformers would look for a kernel on the hub, download it and
    run it.

    Raises:
        ConfigError: it is unknown, its package is missing, or it does not compute on `device` or in `dtype`.
    """
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention {attention!r}: write {', '.join(ATTENTIONS)}")
    package = ATTENTIONS[attention]
    if package is None:
        return
    if device.type != "cuda" or str(dtype) not in ("torch.bfloat16", "torch.float16"):
        raise ConfigError(
            f"attention {attention!r} with a {dtype} model on {device}: flash-attention computes in bfloat16 "
            "or float16 on CUDA; use attention sdpa, or change dtype and device"
        )
    if importlib.util.find_spec(package) is None:
        remedy = (
            "`pip install 'flow-grpo-perceptual[flash]'`, which builds it with the CUDA toolkit"
            if package == "flash_attn"
            else "build it as its authors describe"
        )
        raise ConfigError(
            f"attention {attention!r} needs the package {package}, which is not installed; use attention "
            f"sdpa, or install it: {remedy}"
        )
