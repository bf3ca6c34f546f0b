"""How a transformer is computed: attention kernel, recomputed blocks, compiled blocks.

None of it changes what is computed but for rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from flow_grpo.policy.flux import ModelConfig

#: Recompilations of a block's code before torch gives up and runs it uncompiled. Adapters on and off,
#: gradients on and off, and the batch sizes of rollout, training and their remainders each take one; torch
#: allows 8.
RECOMPILATIONS = 64


def equip(transformer: Any, config: ModelConfig, device: torch.device | str, masked: bool = False) -> None:
    """Set what `config` says about attention, checkpointing and compilation; call after adding adapters.

    Args:
        transformer: A diffusers transformer.
        config: The model section of the configuration.
        device: Where it runs.
        masked: Whether it masks attention, which not every kernel can.

    Raises:
        ValueError: The attention backend cannot be used here.
    """
    set_attention(transformer, config.attention, device, getattr(torch, config.dtype), masked)
    checkpoint_blocks(transformer, int(config.gradient_checkpointing))
    if config.compile:
        compile_blocks(transformer)


def checkpoint_blocks(transformer: Any, every: int) -> None:
    """Recompute each every-th block in the backward pass instead of keeping its activations; 0: none."""
    if every == 0:
        return
    names = ("transformer_blocks", "single_transformer_blocks")
    blocks = [block for name in names for block in getattr(transformer, name, ())]
    chosen = {id(block) for block in blocks[::every]}

    def run(block: torch.nn.Module, *inputs: Any) -> Any:
        if id(block) not in chosen:
            return block(*inputs)
        # Nothing in a block is random.
        return torch.utils.checkpoint.checkpoint(
            block, *inputs, use_reentrant=False, preserve_rng_state=False
        )

    transformer.enable_gradient_checkpointing(run)


def compile_blocks(transformer: Any, backend: str = "inductor") -> None:
    """Compile the repeated blocks, each kind once: minutes at the first forwards, and no change to the names
    of parameters, so adapters, checkpoints and exports are the same.
    """
    if not getattr(transformer, "_repeated_blocks", None):
        transformer._repeated_blocks = transformer._no_split_modules
    limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    torch._dynamo.config.recompile_limit = limit
    transformer.compile_repeated_blocks(backend=backend)


def set_attention(
    transformer: Any, name: str, device: torch.device | str, dtype: torch.dtype, masked: bool = False
) -> None:
    """Choose one of diffusers' attention backends, after a trial forward and backward with it.

    Args:
        transformer: A diffusers transformer.
        name: As in diffusers' `AttentionBackendName`, a leading underscore left out or not.
        device: Where it runs.
        dtype: What it runs in.
        masked: Whether it masks attention.

    Raises:
        ValueError: Unknown, not installed, without backward pass, or of no effect on this model.
    """
    if name == "native":  # diffusers' own choice
        return
    known = backends()
    backend = next((b for b in (name, f"_{name}") if b in known), None)
    reason = "unknown" if backend is None else ""
    if backend is not None and not any(hasattr(p, "_attention_backend") for p in _processors(transformer)):
        raise ValueError(
            f"model.attention is {name!r}, but a {type(transformer).__name__} computes its attention with "
            f"torch's own in any case; use native."
        )
    if backend is not None:
        reason = trial(backend, device, dtype, masked)
    if reason:
        usable = [b for b in known if "hub" not in b and not trial(b, device, dtype, masked)]
        raise ValueError(
            f"model.attention is {name!r}: {reason}. Usable here for {str(dtype).removeprefix('torch.')} on "
            f"{torch.device(device).type}: {', '.join(b.lstrip('_') for b in usable)}."
        )
    from diffusers.utils import logging

    logger = logging.get_logger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that the interface is experimental is no news to the user
    transformer.set_attention_backend(backend)
    logger.setLevel(level)


def backends() -> list[str]:
    """Names of diffusers' attention backends."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    return [backend.value for backend in AttentionBackendName]


def trial(backend: str, device: torch.device | str, dtype: torch.dtype, masked: bool = False) -> str:
    """Why a backend cannot be trained with here; empty where it can.

    It is tried on random numbers, against torch's own attention: some kernels have no backward pass, and
    diffusers tells of it only when a gradient is missing.
    """
    from diffusers.models import attention_dispatch as dispatch

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 1, 128, 2, 64, generator=generator).to(device, dtype)
    mask = torch.ones(1, 1, 1, 128, dtype=torch.bool, device=device) if masked else None
    results = []
    for name in (backend, "native"):
        query, key, value = (part.clone().requires_grad_() for part in inputs)
        try:
            chosen = dispatch.AttentionBackendName(name)
            for step in ("_check_attention_backend_requirements", "_maybe_download_kernel_for_backend"):
                getattr(dispatch, step, lambda _: None)(chosen)  # private: not in every version
            output = dispatch.dispatch_attention_fn(query, key, value, attn_mask=mask, backend=chosen)
            gradient = torch.autograd.grad(output.float().square().sum(), query)[0]
        except Exception as error:
            return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)
        results.append((output, gradient))
    for mine, torchs in zip(*results, strict=True):
        if not torch.allclose(mine.float(), torchs.float(), rtol=0.05, atol=0.05):
            return "its output or gradient is not that of attention"
    return ""


def _processors(transformer: Any) -> list[Any]:
    return [module.processor for module in transformer.modules() if hasattr(module, "processor")]
