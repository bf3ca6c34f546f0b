"""What policies share: packing, pictures, sigma grids, and checks of sizes and guidance.

Shapes:  B samples, c latent channels, h x w latent pixels, S = (h / 2) (w / 2) tokens of C = 4 c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from flow_grpo.policy.flux import ModelConfig


def check_size(config: ModelConfig, unit: int) -> tuple[int, int]:
    """Rows and columns of `unit` pixels in a picture.

    Raises:
        ValueError: The size is not a multiple of `unit`.
    """
    height, width = config.height, config.width
    if height % unit or width % unit or min(height, width) < unit:
        raise ValueError(
            f"model.height is {height} and model.width {width}; both must be multiples of {unit}."
        )
    return height // unit, width // unit


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[B, c, h, w] -> [B, S, C], a token for each 2x2 patch."""
    _, c, h, w = latents.shape
    patches = latents.unflatten(3, (w // 2, 2)).unflatten(2, (h // 2, 2))
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(len(latents), h * w // 4, 4 * c)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of `pack`, for rows x columns tokens."""
    patches = tokens.reshape(len(tokens), rows, columns, -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, 2 * rows, 2 * columns)


def decode_scaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Float32 [B, H, W, 3] pictures of latents [B, c, h, w], by a VAE with one scale and one shift."""
    latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return from_vae(vae.decode(latents, return_dict=False)[0])


def from_vae(decoded: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in about [-1, 1] -> float32 [B, H, W, 3] in [0, 1]."""
    return (decoded.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def scheduler_sigmas(
    scheduler: Any, num_steps: int, image_seq_len: int, *, linear_start: bool
) -> torch.Tensor:
    """The grid of a pipeline's own scheduler, float32 [num_steps + 1].

    Args:
        scheduler: A FlowMatchEulerDiscreteScheduler; is left as it is.
        num_steps: Transformer evaluations.
        image_seq_len: Image tokens, for a shift that depends on them.
        linear_start: Whether the pipeline hands the grid 1, ..., 1 / num_steps to the scheduler, or leaves it
            to the scheduler.

    Raises:
        ValueError: The scheduler is of another class, or integrates in another way than Euler's.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise ValueError(
            f"the model's scheduler is a {type(scheduler).__name__}; put a FlowMatchEulerDiscreteScheduler "
            f"into its folder."
        )
    config = scheduler.config
    odd = [name for name in ("invert_sigmas", "stochastic_sampling") if config.get(name)]
    if odd:
        raise ValueError(f"the model's scheduler uses {odd[0]}; unsupported.")
    own = FlowMatchEulerDiscreteScheduler.from_config(config)
    options: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        options["mu"] = calculate_shift(image_seq_len, *(config[name] for name in names))
    if linear_start:
        options["sigmas"] = np.linspace(1.0, 1 / num_steps, num_steps)
    own.set_timesteps(num_steps, **options)
    sigmas: torch.Tensor = own.sigmas.float().clone()
    if not sigmas.isfinite().all():
        raise ValueError(f"the model's scheduler has no grid of {num_steps} steps; use more.")
    return sigmas
