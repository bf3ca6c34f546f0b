"""Train the pocket FLUX: transformer and both text encoders together, flow matching on the pocket VAE's
latents.

Two phases, as FLUX.1-dev was made: ``base`` learns the velocity field from captioned pictures (captions
dropped one time
in ten), then ``distil`` folds classifier-free guidance into the guidance embedding: the student with
guidance g matches
``v_empty + g (v_caption - v_empty)`` of the base model, g uniform in [1, 5].

    python -m pocket.train_flux base   --steps 6000      # resumes from --work
    python -m pocket.train_flux distil --steps 1200      # writes --out, a FluxPipeline folder
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from pocket.data import painted
from pocket.pool import build_pool
from pocket.schedule import one_cycle
from pocket.text import CLIP_LENGTH, T5_LENGTH

TOKENS = 8  # a 64x64 picture is 8x8 packed latent tokens of 32 numbers
SHIFT = 1.6  # e^mu of FLUX's resolution rule at 64 tokens: training sees the noise levels that sampling uses


class TextToVelocity(nn.Module):
    """The trained part of the pipeline: caption ids and noisy latents to a velocity."""

    def __init__(self, clip_vocab: int, t5_vocab: int) -> None:
        super().__init__()
        clip = CLIPTextConfig(
            vocab_size=clip_vocab, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            projection_dim=128,
        )  # fmt: skip
        t5 = T5Config(
            vocab_size=t5_vocab, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
        )  # fmt: skip
        self.clip = CLIPTextModel(clip)
        self.t5 = T5EncoderModel(t5)
        self.transformer = FluxTransformer2DModel(
            in_channels=32, num_layers=2, num_single_layers=4, attention_head_dim=32, num_attention_heads=5,
            joint_attention_dim=128, pooled_projection_dim=128, guidance_embeds=True, axes_dims_rope=(8, 12,
            12),
        )  # fmt: skip
        self.image_ids = FluxPipeline._prepare_latent_image_ids(1, TOKENS, TOKENS, "cpu", torch.float32)
        self.text_ids = torch.zeros(T5_LENGTH, 3)

    def forward(self, x: Tensor, sigma: Tensor, clip_ids: Tensor, t5_ids: Tensor, guidance: Tensor) -> Tensor:
        """x ``[B, 64, 32]`` at noise level sigma ``[B]`` in [0, 1] -> velocity (noise - picture) of the
        same shape."""
        return self.transformer(
            hidden_states=x, encoder_hidden_states=self.t5(t5_ids)[0],
            pooled_projections=self.clip(clip_ids)[1],
            timestep=sigma, img_ids=self.image_ids, txt_ids=self.text_ids, guidance=guidance,
            return_dict=False,
        )[0]  # fmt: skip


def pack(latents: Tensor) -> Tensor:
    """``[B, 8, 16, 16]`` latents to FLUX's packed ``[B, 64, 32]``."""
    return FluxPipeline._pack_latents(latents, len(latents), 8, 2 * TOKENS, 2 * TOKENS)


@torch.no_grad()
def encode_pool(pictures: np.ndarray, vae: AutoencoderKL, path: Path) -> np.ndarray:
    """Normalised packed latents of all pictures, float16 ``[N, 64, 32]``; computed once, kept in ``path``."""
    if not path.exists():
        rows = []
        for start in range(0, len(pictures), 128):
            chunk = torch.from_numpy(pictures[start : start + 128]).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16):
                latents = vae.encode(chunk).latent_dist.mode().float()
            latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
            rows.append(pack(latents.float()).half().numpy())
        np.save(path, np.concatenate(rows))
    return np.load(path, mmap_mode="r")


class Data:
    """Batches of (latents, CLIP ids, T5 ids) by step number, the same whatever was interrupted."""

    def __init__(self, pool: int, used: int, weights: Path, cache: str | None, work: Path) -> None:
        clip_tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")
        t5_tokenizer = T5TokenizerFast.from_pretrained(weights / "tokenizer_2")
        self.vocabularies = (len(clip_tokenizer), len(t5_tokenizer))
        pictures, captions, subjects = build_pool(pool, cache)
        vae = AutoencoderKL.from_pretrained(weights / "vae").eval()
        self.latents = encode_pool(pictures[:used], vae, work / f"latents-{used}.npy")
        self.rows = np.flatnonzero(np.isin(subjects[:used], painted()))
        texts = [*captions[:used], ""]
        pad = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        self.clip_ids = clip_tokenizer(texts, max_length=CLIP_LENGTH, **pad).input_ids
        self.t5_ids = t5_tokenizer(texts, max_length=T5_LENGTH, **pad).input_ids

    def batch(self, step: int, size: int, dropped: float) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([2, step])
        rows = np.sort(rng.choice(self.rows, size, replace=False))
        texts = np.where(rng.random(size) < dropped, len(self.latents), rows)
        return torch.from_numpy(self.latents[rows]).float(), self.clip_ids[texts], self.t5_ids[texts]

    def empty(self, size: int) -> tuple[Tensor, Tensor]:
        """Ids of the empty caption, repeated."""
        return self.clip_ids[-1:].repeat(size, 1), self.t5_ids[-1:].repeat(size, 1)


def load_exported(model: TextToVelocity, folder: Path) -> None:
    """Take up the weights of a ``FluxPipeline`` folder that :func:`export` wrote."""
    pipeline = FluxPipeline.from_pretrained(folder, vae=None)
    model.transformer.load_state_dict(pipeline.transformer.state_dict())
    model.clip.load_state_dict(pipeline.text_encoder.state_dict())
    model.t5.load_state_dict(pipeline.text_encoder_2.state_dict())


def draw_sigma(size: int, generator: torch.Generator) -> Tensor:
    """Logit-normal noise levels under FLUX's shift, ``[size]`` in (0, 1)."""
    u = torch.sigmoid(1.2 * torch.randn(size, generator=generator))
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def noisy(x0: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy latents, sigma, velocity target) for a step's own random numbers."""
    generator = torch.Generator().manual_seed(step)
    noise = torch.randn(x0.shape, generator=generator)
    sigma = draw_sigma(len(x0), generator)
    s = sigma[:, None, None]
    return (1 - s) * x0 + s * noise, sigma, noise - x0


def optimizers(model: nn.Module, lr: float, steps: int) -> tuple[list[torch.optim.Optimizer], list]:
    """Muon for the weight matrices of the blocks, AdamW for everything else; one-cycle schedules."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and ("blocks." in name or "layers." in name or "block." in name)
        (matrices if inside and "relative" not in name else others).append(parameter)
    made = [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: one_cycle(step, steps)) for o in made]
    return made, schedules


def target_of(phase: str, teacher: TextToVelocity, data: Data, batch: tuple, guidance: Tensor) -> Tensor:
    """The guided velocity of the base model (distil phase), ``[B, 64, 32]``."""
    x, sigma, clip_ids, t5_ids = batch
    with torch.no_grad():
        one = torch.ones(2 * len(x))
        empty_clip, empty_t5 = data.empty(len(x))
        inputs = (torch.cat([x, x]), torch.cat([sigma, sigma]))
        velocity = teacher(*inputs, torch.cat([clip_ids, empty_clip]), torch.cat([t5_ids, empty_t5]), one)
        with_caption, without = velocity.float().chunk(2)
    return without + guidance[:, None, None] * (with_caption - without)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    args.work.mkdir(parents=True, exist_ok=True)
    data = Data(args.pool, args.used, args.out, args.cache, args.work)
    model = TextToVelocity(*data.vocabularies)
    distil = args.phase == "distil"
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    if args.init:
        load_exported(model, args.init)
    if distil:
        base = torch.load(args.work / "flux-base.pt", weights_only=True)["ema"]
        model.load_state_dict(base)
        teacher.load_state_dict(base)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    made, schedules = optimizers(model, args.lr, args.steps)
    state_path, start = args.work / f"flux-{args.phase}.pt", 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        for item, saved in zip([*made, *schedules], state["optimizers"], strict=True):
            item.load_state_dict(saved)
        start = state["step"]
    began, losses = time.monotonic(), []
    for step in range(start, args.steps):
        x0, clip_ids, t5_ids = data.batch(step, args.batch_size, dropped=0.0 if distil else 0.1)
        x, sigma, target = noisy(x0, step)
        guidance = torch.ones(len(x))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            if distil:
                guidance = 1 + 4 * torch.rand(len(x), generator=torch.Generator().manual_seed(step + 10**6))
                target = target_of(args.phase, teacher, data, (x, sigma, clip_ids, t5_ids), guidance)
            velocity = model(x, sigma, clip_ids, t5_ids, guidance)
        loss = (velocity.float() - target).square().mean()
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for item in [*made, *schedules]:
            item.step()
        decay = min(args.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"{step + 1} loss {np.mean(losses[-50:]):.4f} {time.monotonic() - began:.0f} s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            saved = [item.state_dict() for item in [*made, *schedules]]
            torch.save({"model": model.state_dict(), "ema": ema.state_dict(), "optimizers": saved, "step":
            step + 1},
                       state_path.with_suffix(".new"))  # fmt: skip
            state_path.with_suffix(".new").replace(state_path)
    export(ema, args.out)


def export(model: TextToVelocity, folder: Path) -> None:
    """Write a ``FluxPipeline`` folder around the VAE and tokenizers that are already there."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=model.clip,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=model.t5,
        tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
        transformer=model.transformer,
    )
    pipeline.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phase", choices=["base", "distil"])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--pool", type=int, default=48_000, help="number of composed pictures")
    parser.add_argument(
        "--used", type=int, default=32_000, help="how many of them are encoded and trained on"
    )
    parser.add_argument("--init", type=Path, help="base phase: start from this FluxPipeline folder's weights")
    parser.add_argument("--work", type=Path, default=Path("pocket/cache/work"), help="resumable state")
    parser.add_argument("--out", type=Path, default=Path("pocket/weights/flux"))
    parser.add_argument("--cache", help="folder of downloaded pictures")
    train(parser.parse_args())
