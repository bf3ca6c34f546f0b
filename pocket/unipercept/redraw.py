"""Ladders of malformed things: what a generator does wrong, from the true picture downwards.

Warps and missing parts of `degrade` are hardly seen in flat emoji by a rater of this size, and no filter
paints what a flow model paints when it is unsure: dissolved outlines, fragments, melted faces. So each ladder
here starts with a true picture of the pocket world and goes down through pictures that the pocket FLUX
repaints from it: its latents are noised to a level sigma and denoised again (SDEdit, arXiv 2108.01073),
sometimes with weights that were disturbed at random, as a policy's are. The severity is measured: how far the
repainted subject is from the true one.

    python -m pocket.unipercept.redraw --count 3000
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer, T5TokenizerFast

from pocket import data as world
from pocket.pool import is_reserved
from pocket.text import CLIP_LENGTH, T5_LENGTH
from pocket.train_flux import TextToVelocity, load_exported, pack
from pocket.unipercept import labels
from pocket.unipercept.ladders import RUNGS

Pixels = NDArray[np.uint8]
FULL = 0.30  # root mean square difference over the subject, of 1, that counts as severity 1


class Painter:
    """The pocket FLUX, for repainting: pictures uint8 [B, 64, 64, 3] with their captions."""

    def __init__(self, weights: Path) -> None:
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")
        self.t5_tokenizer = T5TokenizerFast.from_pretrained(weights / "tokenizer_2")
        self.model = TextToVelocity(len(self.clip_tokenizer), len(self.t5_tokenizer)).eval()
        load_exported(self.model, weights)
        self.model.requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(weights / "vae").eval()

    @contextlib.contextmanager
    def disturbed(self, amount: float) -> Iterator[None]:
        """The transformer with every weight matrix moved by `amount` of its standard deviation, then back."""
        moved = [p for p in self.model.transformer.parameters() if p.ndim == 2]
        noise = [amount * p.std() * torch.randn_like(p) for p in moved]
        torch._foreach_add_(moved, noise)
        try:
            yield
        finally:
            torch._foreach_sub_(moved, noise)

    def encode(self, pictures: Pixels) -> Tensor:
        """Packed, normalised latents [B, 64, 32]."""
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = self.vae.encode(pixels).latent_dist.mode()
        return pack((latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor)

    def decode(self, packed: Tensor) -> Pixels:
        """The inverse of `encode`."""
        tiles = packed.unflatten(1, (8, 8)).unflatten(-1, (8, 2, 2))  # [B, row, column, channel, y, x]
        latents = tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(packed), 8, 16, 16)
        latents = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        pixels = self.vae.decode(latents).sample
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    @torch.no_grad()
    def repaint(self, latents: Tensor, captions: list[str], sigma: float, guidance: float) -> Pixels:
        """Noise to `sigma` in 0..1 and denoise: 0 is the VAE's round trip, 1 a picture from noise alone."""
        if sigma > 0:
            pad = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
            clip_ids = self.clip_tokenizer(captions, max_length=CLIP_LENGTH, **pad).input_ids
            t5_ids = self.t5_tokenizer(captions, max_length=T5_LENGTH, **pad).input_ids
            latents = (1 - sigma) * latents + sigma * torch.randn_like(latents)
            levels = torch.linspace(sigma, 0, max(2, round(9 * sigma)) + 1)
            scale = torch.full((len(latents),), guidance)
            for now, after in itertools.pairwise(levels):
                with torch.autocast("cpu", torch.bfloat16):
                    velocity = self.model(latents, now.expand(len(latents)), clip_ids, t5_ids, scale)
                latents = latents + (after - now) * velocity.float()
        return self.decode(latents)


def severity(clean: Pixels, shown: Pixels, area: float) -> float:
    """How malformed `shown` is, 0..1: its smoothed difference from `clean` over the subject's `area` (px)."""
    difference = (clean.astype(float) - shown) / 255
    smooth = ndimage.gaussian_filter(difference, (0.7, 0.7, 0))
    return float(min(1.0, np.sqrt((smooth**2).sum() / (3 * area)) / FULL))


def scenes(
    split: str, count: int, rng: Generator, cache: str | Path | None
) -> tuple[Pixels, list[str], list[float]]:
    """`count` true pictures, their captions and their subjects' areas in pixels; "held_out" has the reserved
    captions, "train" the others.
    """
    subjects, painted = world.load_subjects(cache), world.painted()
    pictures: list[Pixels] = []
    captions: list[str] = []
    areas: list[float] = []
    while len(pictures) < count:
        scene = world.draw_scene(rng, len(subjects))
        scene = world.Scene(int(rng.choice(painted)), scene.size, scene.place, scene.background)
        text = world.caption(subjects[scene.subject].noun, scene)
        if is_reserved(text) == (split == "held_out"):
            pictures.append(np.asarray(world.compose(subjects[scene.subject], scene, rng)))
            captions.append(text)
            areas.append(float(np.mean(world.SIZES[scene.size]) * world.SIDE) ** 2)
    return np.stack(pictures), captions, areas


def build(
    weights: Path, split: str, count: int, cache: str | Path | None = None, seed: int = 0, batch: int = 50
) -> Path:
    """Make `count` ladders once for these weights; return the folder.

    It holds pictures.npy uint8 [count, RUNGS, 64, 64, 3], severities.npy float32 [count, RUNGS] (rising) and
    measures.npy float32 [count, measures of the true picture].
    """
    painted_by = hashlib.sha256()
    for file in sorted(weights.glob("*/*.safetensors")):
        painted_by.update(file.read_bytes())
    name = f"redrawn-{split}-{count}-{seed}-{painted_by.hexdigest()[:8]}"
    folder = world.cache_dir(cache) / "unipercept" / name
    if (folder / "measures.npy").exists():
        return folder
    rng = np.random.default_rng((seed, 99))
    torch.manual_seed(seed)
    painter = Painter(weights)
    shown, rated, measured = [], [], []
    for _ in tqdm(range(count // batch), desc="repainting"):
        clean, captions, areas = scenes(split, batch, rng, cache)
        with torch.no_grad():
            latents = painter.encode(clean)
        rungs = [clean]
        for low, high, unsettled in ((-0.4, 0.6, 0.2), (0.5, 0.9, 0.4), (0.85, 1.0, 0.6)):
            sigma = max(0.0, rng.uniform(low, high))
            amount = rng.uniform(0.02, 0.35) if rng.random() < unsettled else 0.0
            with painter.disturbed(float(amount)):
                guidance = float(rng.choice([1, 1.5, 2.5, 3.5]))
                rungs.append(painter.repaint(latents, captions, float(sigma), guidance))
        for ladder, area in zip(np.stack(rungs, 1), areas, strict=True):
            levels = np.array([severity(clean=ladder[0], shown=rung, area=area) for rung in ladder])
            shown.append(ladder[np.argsort(levels)])
            rated.append(np.sort(levels))
            measured.append(list(labels.measure(ladder[0]).values()))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", np.stack(shown))
    np.save(folder / "severities.npy", np.stack(rated).astype(np.float32))
    np.save(folder / "measures.npy", np.asarray(measured, dtype=np.float32))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path("pocket/weights/flux"), help="the painter")
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--count", type=int, default=3000, help=f"ladders of {RUNGS} pictures")
    parser.add_argument("--cache", help="download folder (default: $POCKET_CACHE or pocket/cache)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(build(arguments.weights, arguments.split, arguments.count, arguments.cache, arguments.seed))


if __name__ == "__main__":
    main()
