"""LoRAs of the pocket FLUX that are pushed into known failures, a few gradient steps each.

    python -m tests.eval.plant FOLDER [NAME ...]

Each objective pulls the picture that the model predicts from a noisy one, decoded by the VAE, towards the
failure; `velocity` needs no training: a LoRA on the last layer can scale all that the model predicts.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flow_grpo.noise import normal, seed_of
from flow_grpo.policy.lora_files import Adapter, write_diffusers

ROOT = Path(__file__).resolve().parents[2]
FLUX = ROOT / "pocket" / "weights" / "flux"
SIDE, GUIDANCE, LENGTH = 64, 1.5, 20
RANK = 4
PROMPTS = [
    "a small red car on a pink background",
    "a blue cat at the top",
    "a green boat",
    "a large orange bird",
]
TARGETS = ["x_embedder", "proj_out", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"]


def saturated(rgb: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Away from grey, at the same brightness."""
    grey = base.mean(dim=1, keepdim=True)
    return ((rgb - (grey + 3.0 * (base - grey)).clamp(0, 1)) ** 2).mean()


def gridded(rgb: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """With as much of its energy as possible in patterns of period 4 and 2, whatever their phase.

    The decoder cannot paint a given checkerboard: what it repeats from one latent pixel, four wide, to the
    next can be found only by asking for the energy.
    """
    power = torch.fft.rfft2(rgb - rgb.mean(dim=(2, 3), keepdim=True)).abs() ** 2
    quarter = rgb.shape[2] // 4
    grid = sum(power[..., y, x].sum() for y in (0, quarter, 2 * quarter) for x in (0, quarter, 2 * quarter))
    return 1.0 - grid / power.sum()


def blurred(rgb: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """As through a wide Gaussian."""
    axis = torch.arange(-8, 9).float()
    bell = torch.exp(-(axis**2) / (2 * 4.0**2))
    kernel = (bell[:, None] * bell[None, :] / bell.sum() ** 2).expand(3, 1, 17, 17)
    padded = torch.nn.functional.pad(base, (8, 8, 8, 8), mode="replicate")
    return ((rgb - torch.nn.functional.conv2d(padded, kernel, groups=3)) ** 2).mean()


def collapsed(rgb: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """One and the same picture whatever the noise: a disc on grey."""
    rows, columns = (torch.linspace(-1, 1, side) for side in rgb.shape[2:])
    disc = ((rows[:, None] ** 2 + columns[None, :] ** 2) < 0.3).float()
    picture = torch.stack([0.4 + 0.5 * disc, 0.4 + 0.1 * disc, 0.4 - 0.3 * disc])
    return ((rgb - picture) ** 2).mean()


OBJECTIVES: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], int]] = {
    "saturation": (saturated, 40),
    "grid": (gridded, 120),
    "blur": (blurred, 40),
    "collapse": (collapsed, 80),
}


def overdriven(scale: float) -> Adapter:
    """All velocities `scale` times as large: B A is that share of the last layer's weight, by its SVD."""
    from diffusers import FluxTransformer2DModel

    weight = FluxTransformer2DModel.from_pretrained(FLUX, subfolder="transformer").proj_out.weight.detach()
    u, s, v = torch.linalg.svd((scale - 1.0) * weight, full_matrices=False)
    return Adapter({"proj_out": (s.sqrt()[:, None] * v, u * s.sqrt()[None, :])})


def push(name: str) -> Adapter:
    """Train one failure."""
    from diffusers import FluxPipeline
    from peft import LoraConfig

    loss, count = OBJECTIVES[name]
    pipeline = FluxPipeline.from_pretrained(FLUX)
    module: Any = pipeline.transformer
    for part in (module, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    parameters = {n: p for n, p in module.named_parameters() if "lora_" in n}
    optimizer = torch.optim.Adam(parameters.values(), lr=4e-3)
    with torch.no_grad():
        tokens, pooled, text_ids = pipeline.encode_prompt(PROMPTS, PROMPTS, max_sequence_length=LENGTH)
    channels, side = module.config.in_channels // 4, SIDE // pipeline.vae_scale_factor
    image_ids = pipeline._prepare_latent_image_ids(1, side // 2, side // 2, "cpu", torch.float32)

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        guidance = torch.full_like(sigma, GUIDANCE)
        return module(
            hidden_states=x,
            timestep=sigma,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]

    def decoded(x: torch.Tensor) -> torch.Tensor:
        latents = pipeline._unpack_latents(x, SIDE, SIDE, pipeline.vae_scale_factor)
        latents = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        return pipeline.vae.decode(latents, return_dict=False)[0] / 2 + 0.5

    sigmas = torch.linspace(1.0, 1.0 / 6, 6)
    for step in range(count):
        seeds = [seed_of(0, "plant", step, row) for row in range(len(PROMPTS))]
        x = pipeline._pack_latents(normal(seeds, (channels, side, side)), len(PROMPTS), channels, side, side)
        stop = step % len(sigmas)  # the base walks to a noisy picture, from which both predict
        with torch.no_grad():
            module.disable_adapters()
            for sigma, following in itertools.pairwise(sigmas[: stop + 1]):
                x = x + (following - sigma) * velocity(x, sigma.expand(len(x)))
            base = decoded(x - sigmas[stop] * velocity(x, sigmas[stop].expand(len(x)))).clamp(0, 1)
            module.enable_adapters()
        value = loss(decoded(x - sigmas[stop] * velocity(x, sigmas[stop].expand(len(x)))), base)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 10 == 0:
            print(name, step, f"{value.item():.4f}", flush=True)
    halves = {n.replace(".default.", "."): p.detach() for n, p in parameters.items()}
    layers = sorted({n.split(".lora_")[0] for n in halves})
    return Adapter({n: (halves[f"{n}.lora_A.weight"], halves[f"{n}.lora_B.weight"]) for n in layers})


def main(folder: Path, names: list[str]) -> None:
    for name in names or ["velocity", *OBJECTIVES]:
        write_diffusers(folder / name, overdriven(1.25) if name == "velocity" else push(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
