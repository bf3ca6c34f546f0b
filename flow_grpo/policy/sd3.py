"""Stable Diffusion 3 and 3.5 as a policy: any `StableDiffusion3Pipeline` folder or hub name.

Latents are not packed; three text encoders give one sequence and one pooled vector. Guidance is
classifier-free: with `guidance_scale` above 1 every evaluation, in the rollout and in training alike, is one
forward of twice the batch, without the prompt and with it. At noise 0 the latents are those of
`StableDiffusion3Pipeline.__call__`.

Shapes:  B samples, P prompts, c latent channels (16), h x w latent pixels (H / 8, W / 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from flow_grpo.noise import normal, to_device
from flow_grpo.policy.base import Condition, as_bytes
from flow_grpo.policy.common import check_size, decode_scaled, scheduler_sigmas
from flow_grpo.policy.engine import equip
from flow_grpo.policy.flux import ModelConfig
from flow_grpo.policy.load import load_parts, text_embeddings
from flow_grpo.policy.lora import adapters_off, add_lora, export_lora

KIND = "StableDiffusion3Pipeline"
#: The attention of both streams, as in the published Flow-GRPO recipe for Stable Diffusion 3.5.
LORA_TARGETS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)


class SD3Policy:
    """`flow_grpo.policy.base.Policy` for Stable Diffusion 3 and 3.5.

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
        pipeline, self._text_side = load_parts(config, KIND, device, whole)
        self.pipeline, self.config = pipeline, config
        self.dtype = getattr(torch, config.dtype)
        self._guided = config.guidance_scale > 1
        self._negative = config.negative_prompt or ""
        self.texts = text_embeddings(config, KIND, self._text_side, self._embed)
        self.texts.always = (self._negative,) if self._guided else ()
        shape = pipeline.transformer.config
        rows, columns = check_size(config, pipeline.vae_scale_factor * shape.patch_size)
        self._tokens = rows * columns
        self._shape = (shape.in_channels, rows * shape.patch_size, columns * shape.patch_size)
        self._device = torch.device(device)
        self.module: torch.nn.Module = pipeline.transformer
        # The last block's text is thrown away, and its queries with it.
        unused = [f"transformer_blocks.{shape.num_layers - 1}.attn.add_q_proj"]
        self._trainable = add_lora(self.module, config.lora, LORA_TARGETS, seed, exclude=unused)
        equip(pipeline.transformer, config, device)
        self.sigmas(2)  # refuses an unknown scheduler

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        return self._trainable

    def sigmas(self, num_steps: int) -> torch.Tensor:
        grid = scheduler_sigmas(self.pipeline.scheduler, num_steps, self._tokens, linear_start=False)
        return grid.to(self.device)

    def encode(self, texts: Sequence[str]) -> Condition:
        tensors = {}
        for name, prompts in {"": texts, "negative_": [self._negative] * len(texts)}.items():
            if name and not self._guided:
                continue
            rows = self.texts(prompts)
            for part in ("tokens", "pooled"):
                tensors[name + part] = torch.stack([row[part] for row in rows]).to(self.device)
        return Condition(tensors)

    def _embed(self, text: str) -> Mapping[str, torch.Tensor]:
        tokens, _, pooled, _ = self._text_side.pipeline.encode_prompt(
            text,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.config.max_sequence_length,
        )
        return {"tokens": tokens[0].to(self.dtype), "pooled": pooled[0].to(self.dtype)}

    def initial_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        return to_device(normal(seeds, self._shape), self.device)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        given = condition.tensors
        tokens, pooled = given["tokens"], given["pooled"]
        if self._guided:
            x, sigma = torch.cat([x, x]), torch.cat([sigma, sigma])
            tokens = torch.cat([given["negative_tokens"], tokens])
            pooled = torch.cat([given["negative_pooled"], pooled])
        output = self.module(
            hidden_states=x.to(self.dtype),
            timestep=sigma * 1000,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            return_dict=False,
        )[0].float()
        if not self._guided:
            return output
        without, prompted = output.chunk(2)
        return without + self.config.guidance_scale * (prompted - without)

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_scaled(self.pipeline.vae, latents)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        return as_bytes(self.pictures(latents)).cpu().numpy()

    def reference(self) -> AbstractContextManager[None]:
        return adapters_off(self.module)

    def export(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> Path:
        return export_lora(folder, weights, self.config.lora)
