"""Qwen-Image as a policy: any `QwenImagePipeline` folder or hub name.

The prompt goes through Qwen2.5-VL inside a template, whose tokens diffusers drops again, and embeddings are
as long as their prompts: those of a batch are padded and masked. Guidance is "true": with `guidance_scale`
above 1 every evaluation, in the rollout and in training alike, is one forward of twice the batch, and the
combination is scaled back to the norm of the prompted prediction, token by token. At noise 0 the latents are
those of `QwenImagePipeline.__call__` with `true_cfg_scale=guidance_scale`.

Shapes:  B samples, P prompts, L text tokens, S = (H / 16) (W / 16) image tokens, C = 4 x latent channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from flow_grpo.noise import normal, to_device
from flow_grpo.policy.base import Condition, as_bytes
from flow_grpo.policy.common import check_size, from_vae, pack, scheduler_sigmas, unpack
from flow_grpo.policy.engine import equip
from flow_grpo.policy.flux import ModelConfig
from flow_grpo.policy.load import load_parts, text_embeddings
from flow_grpo.policy.lora import adapters_off, add_lora, export_lora

KIND = "QwenImagePipeline"
#: Attention and feed-forwards of both streams.
LORA_TARGETS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
)
#: The last block's text stream ends nowhere.
UNUSED = ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")


class QwenImagePolicy:
    """`flow_grpo.policy.base.Policy` for Qwen-Image.

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
        self._negative = " " if config.negative_prompt is None else config.negative_prompt
        self.texts = text_embeddings(config, KIND, self._text_side, self._embed)
        self.texts.always = (self._negative,) if self._guided else ()
        shape = pipeline.transformer.config
        if shape.guidance_embeds:
            raise ValueError("the model has guidance embedding, which QwenImagePipeline cannot use either.")
        self._rows, self._columns = check_size(config, 2 * pipeline.vae_scale_factor)
        self._channels = shape.in_channels // 4
        self._device = torch.device(device)
        self.module: torch.nn.Module = pipeline.transformer
        unused = [f"transformer_blocks.{shape.num_layers - 1}.{name}" for name in UNUSED]
        self._trainable = add_lora(self.module, config.lora, LORA_TARGETS, seed, exclude=unused)
        equip(pipeline.transformer, config, device, masked=True)
        self.sigmas(2)  # refuses an unknown scheduler

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self._rows * self._columns, 4 * self._channels

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        return self._trainable

    def sigmas(self, num_steps: int) -> torch.Tensor:
        tokens = self._rows * self._columns
        return scheduler_sigmas(self.pipeline.scheduler, num_steps, tokens, linear_start=True).to(self.device)

    def encode(self, texts: Sequence[str]) -> Condition:
        prompts = [*texts, *([self._negative] * len(texts) if self._guided else [])]
        rows = [row["tokens"] for row in self.texts(prompts)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]
        tensors = {"tokens": tokens[: len(texts)], "mask": mask[: len(texts)]}
        if self._guided:
            tensors |= {"negative_tokens": tokens[len(texts) :], "negative_mask": mask[len(texts) :]}
        return Condition(tensors)

    def _embed(self, text: str) -> Mapping[str, torch.Tensor]:
        tokens, _ = self._text_side.pipeline.encode_prompt(
            text, device=self.device, max_sequence_length=self.config.max_sequence_length
        )
        return {"tokens": tokens[0].to(self.dtype)}

    def initial_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        noise = normal(seeds, (self._channels, 2 * self._rows, 2 * self._columns))
        return to_device(pack(noise), self.device)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        given = condition.tensors
        tokens, mask = given["tokens"], given["mask"]
        if self._guided:
            x, sigma = torch.cat([x, x]), torch.cat([sigma, sigma])
            tokens = torch.cat([given["negative_tokens"], tokens])
            mask = torch.cat([given["negative_mask"], mask])
        output = self.module(
            hidden_states=x.to(self.dtype),
            # Rounded to the model's dtype before dividing, as the pipeline does.
            timestep=(sigma * 1000).to(self.dtype) / 1000,
            encoder_hidden_states=tokens,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, self._rows, self._columns)]] * len(x),
            return_dict=False,
        )[0].float()
        if not self._guided:
            return output
        without, prompted = output.chunk(2)
        combined = without + self.config.guidance_scale * (prompted - without)
        return combined * (prompted.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        mean, std = (
            torch.tensor(values, device=self.device, dtype=vae.dtype).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        frames = unpack(latents, self._rows, self._columns).unsqueeze(2).to(vae.dtype)
        return from_vae(vae.decode(frames / (1.0 / std) + mean, return_dict=False)[0][:, :, 0])

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        return as_bytes(self.pictures(latents)).cpu().numpy()

    def reference(self) -> AbstractContextManager[None]:
        return adapters_off(self.module)

    def export(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> Path:
        return export_lora(folder, weights, self.config.lora)
