"""FLUX.1 as a policy: any `FluxPipeline` folder or hub name.

FLUX packs 2x2 latent pixels into one token and wants position ids, pooled CLIP embeddings and a guidance
scale; none of these words leave this file. Everything is computed as `FluxPipeline.__call__` does, so that at
noise 0 the same latents come out.

Shapes:  B samples, P prompts, S = (H / 2r) (W / 2r) tokens with r the VAE's reduction, C = 4 x latent
    channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from flow_grpo.noise import normal, to_device
from flow_grpo.policy.base import Condition, as_bytes
from flow_grpo.policy.common import check_size, decode_scaled, pack, unpack
from flow_grpo.policy.engine import equip
from flow_grpo.policy.load import check_model_path as check_model_path
from flow_grpo.policy.load import load_parts, text_embeddings
from flow_grpo.policy.lora import LoraConfig, adapters_off, add_lora, export_lora
from flow_grpo.policy.text import warn_if_cut
from flow_grpo.schedule import flux_sigmas, static_sigmas

KIND = "FluxPipeline"
#: Attention and feed-forward layers of both kinds of block, as in the published FLUX recipes.
LORA_TARGETS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)


@dataclass(frozen=True)
class ModelConfig:
    """The model that is tuned.

    Attributes:
        path: A diffusers pipeline folder (model_index.json and its components) or its name on the hub; of one
            of the classes in `flow_grpo.policy.POLICIES`, such as FluxPipeline.
        dtype: Of the frozen base, text encoders and VAE. Adapters are always float32.
        height: Of the pictures, in pixels; a multiple of twice the VAE's reduction (16).
        width: See height.
        guidance_scale: FLUX.1: embedded guidance, ignored by models without guidance embedding. The others:
            classifier-free guidance, above 1 twice the work of each evaluation.
        negative_prompt: What classifier-free guidance leads away from; none: the empty prompt (Qwen-Image: a
            space).
        max_sequence_length: Tokens of T5, or of Qwen-Image's encoder; longer prompts are cut.
        text_cache: Folder in which the prompts' embeddings are kept (FLUX.1: 4 MiB each at 512 tokens).
            Runs and processes may share it, and it may be deleted at any time. The text encoders are then
            loaded only for prompts that are not in it, before training begins, and never stay on the GPU.
            None: they stay there, and nothing is written.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more
            time. A number n: of every n-th block only, for 1 / n of both.
        attention: One of diffusers' attention backends: native (torch's), flash, flex, ... It is
            tried when the model is loaded; one that is not there, or has no backward pass, is refused.
        compile: Compile the transformer's blocks, which takes minutes at the start.
        lora: The adapters.
    """

    path: str = "black-forest-labs/FLUX.1-dev"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    height: int = 512
    width: int = 512
    guidance_scale: float = 3.5
    negative_prompt: str | None = None
    max_sequence_length: int = 512
    text_cache: str | None = None
    gradient_checkpointing: bool | int = False
    attention: str = "native"
    compile: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)


class FluxPolicy:
    """`flow_grpo.policy.base.Policy` for FLUX.1.

    Args:
        config: The model section of the configuration.
        device: Where everything is put.
        seed: Seed of the adapters' initialisation.
        whole: False: the transformer stays on the CPU.

    Raises:
        ValueError: The model cannot be found or loaded, or the resolution does not fit it.
    """

    def __init__(
        self, config: ModelConfig, device: torch.device | str = "cpu", seed: int = 0, whole: bool = True
    ) -> None:
        if config.negative_prompt is not None:
            raise ValueError(
                f"model.negative_prompt is {config.negative_prompt!r}, but FLUX.1 has no classifier-free "
                f"guidance; leave it out."
            )
        pipeline, self._text_side = load_parts(config, KIND, device, whole)
        self.pipeline = pipeline
        self.texts = text_embeddings(config, KIND, self._text_side, self._embed)
        self.config = config
        self.dtype = getattr(torch, config.dtype)
        self._rows, self._columns = check_size(config, 2 * pipeline.vae_scale_factor)
        self._channels = pipeline.transformer.config.in_channels // 4
        self._sigmas = _sigma_grid(pipeline.scheduler.config)
        self.module: torch.nn.Module = pipeline.transformer
        self._trainable = add_lora(self.module, config.lora, LORA_TARGETS, seed)
        equip(pipeline.transformer, config, device)
        positions = torch.cartesian_prod(torch.arange(self._rows), torch.arange(self._columns)).to(device)
        self._image_ids = torch.nn.functional.pad(positions, (1, 0)).to(self.dtype)
        self._text_ids = torch.zeros(config.max_sequence_length, 3, device=device, dtype=self.dtype)

    @property
    def device(self) -> torch.device:
        return self._image_ids.device

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self._rows * self._columns, 4 * self._channels

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        return self._trainable

    def sigmas(self, num_steps: int) -> torch.Tensor:
        return self._sigmas(num_steps, self.latent_shape[0]).to(self.device)

    def encode(self, texts: Sequence[str]) -> Condition:
        rows = self.texts(texts)
        names = ("tokens", "pooled")
        return Condition({name: torch.stack([row[name] for row in rows]).to(self.device) for name in names})

    def _embed(self, text: str) -> Mapping[str, torch.Tensor]:
        warn_if_cut(self._text_side.pipeline.tokenizer_2, text, self.config.max_sequence_length)
        tokens, pooled, _ = self._text_side.pipeline.encode_prompt(
            text, device=self.device, max_sequence_length=self.config.max_sequence_length
        )
        return {"tokens": tokens[0], "pooled": pooled[0]}

    def initial_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        noise = normal(seeds, (self._channels, 2 * self._rows, 2 * self._columns))
        return to_device(pack(noise), self.device)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        # The pipeline rounds sigma * 1000 to the model's dtype before dividing; so do sampling and re-scoring
        # here.
        timestep = (sigma * 1000).to(self.dtype) / 1000
        guidance = torch.full_like(sigma, self.config.guidance_scale, dtype=torch.float32)
        output = self.module(
            hidden_states=x.to(self.dtype),
            timestep=timestep,
            guidance=guidance if self.pipeline.transformer.config.guidance_embeds else None,
            pooled_projections=condition.tensors["pooled"],
            encoder_hidden_states=condition.tensors["tokens"],
            txt_ids=self._text_ids,
            img_ids=self._image_ids,
            return_dict=False,
        )
        return output[0].float()

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_scaled(self.pipeline.vae, unpack(latents, self._rows, self._columns))

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        return as_bytes(self.pictures(latents)).cpu().numpy()

    def reference(self) -> AbstractContextManager[None]:
        return adapters_off(self.module)

    def export(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> Path:
        return export_lora(folder, weights, self.config.lora)


def _sigma_grid(scheduler: Mapping[str, Any]) -> Any:
    """(num_steps, image_seq_len) -> sigmas, as the pipeline's own scheduler is configured."""
    odd = [
        name
        for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")
        if scheduler.get(name)
    ]
    if odd or scheduler.get("shift_terminal") or scheduler.get("stochastic_sampling"):
        raise ValueError(
            f"the model's scheduler uses {odd or 'shift_terminal or stochastic_sampling'}; unsupported."
        )
    if not scheduler.get("use_dynamic_shifting"):
        return lambda num_steps, _: static_sigmas(num_steps, scheduler["shift"])
    if scheduler.get("time_shift_type", "exponential") != "exponential":
        raise ValueError(
            f"the model's scheduler has time_shift_type {scheduler['time_shift_type']!r}; unsupported."
        )
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    values = [scheduler[name] for name in names]
    return lambda num_steps, image_seq_len: flux_sigmas(num_steps, image_seq_len, *values)
