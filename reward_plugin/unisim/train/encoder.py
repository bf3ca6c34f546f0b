"""A CLIP with adapters on its vision tower: what trains, and the embeddings of pictures and texts.

Shapes:  N pictures, V texts, H height, W width, D dimensions of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from reward_plugin.scorers.clip_folder import load_model, load_processing
from reward_plugin.source import find_folder
from reward_plugin.unisim.train.config import LoraConfig, ModelConfig, Task
from reward_plugin.unisim.train.feed import Part
from reward_plugin.unisim.train.questions import seed_of

#: Texts that are encoded together; always the same ones, so that a run that goes on has the same embeddings.
TEXT_BATCH = 256


class Encoder:
    """A `CLIPModel` that PEFT has wrapped.

    Attributes:
        model: The wrapped model.
        folder: Of the model it was loaded from.
        tokenizer, processor: What feeds it.
        trainable: Parameters that train, by name, float32: the adapters, and the visual projection unless it
            is locked.
        device: Where it computes.
        fingerprint: Changes when the weights that it was loaded from do.
    """

    def __init__(self, config: ModelConfig, seed: int, device: torch.device) -> None:
        """Load the model and give it fresh adapters, which change nothing yet.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        from transformers import CLIPModel

        self.folder = find_folder(config.path, config.revision)
        self.tokenizer, self.processor = load_processing(self.folder)
        clip = load_model(CLIPModel, self.folder, torch.float32)
        self.fingerprint = fingerprint(clip)
        if config.gradient_checkpointing:
            clip.vision_model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = adapted(clip, config, seed).to(device)
        self.trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._clip = self.model.get_base_model()
        self.device = device
        self._bfloat16 = config.dtype == "bfloat16" or (config.dtype == "auto" and device.type == "cuda")
        mean, std = (
            torch.tensor(values, device=device).view(3, 1, 1)
            for values in (self.processor.image_mean, self.processor.image_std)
        )
        self._mean, self._std = mean, std

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings of length 1, float32 [N, D], of uint8 pictures [N, 3, H, W] on any device."""
        scaled = pixels.to(self.device, non_blocking=True).float() * self.processor.rescale_factor
        with torch.autocast(self.device.type, torch.bfloat16, self._bfloat16):
            pooled = self._clip.vision_model(pixel_values=(scaled - self._mean) / self._std).pooler_output
            projected = self._clip.visual_projection(pooled)
        return F.normalize(projected.float(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of length 1, float32 [V, D] on the CPU. The text tower is frozen, so they stay."""
        made = [self._encode(texts[start : start + TEXT_BATCH]) for start in range(0, len(texts), TEXT_BATCH)]
        return torch.cat(made)

    def embed(
        self, parts: Mapping[Task, Part], table: torch.Tensor
    ) -> dict[Task, tuple[torch.Tensor, torch.Tensor]]:
        """Embeddings of each task's pictures [n, k, D] and texts [n, t, D], in one forward pass."""
        flat = [part.pixels.flatten(0, 1) for part in parts.values()]
        vectors = self.images(torch.cat(flat)).split([len(pixels) for pixels in flat])
        return {
            task: (
                vector.unflatten(0, part.pixels.shape[:2]),
                table[part.texts].to(self.device, non_blocking=True),
            )
            for (task, part), vector in zip(parts.items(), vectors, strict=True)
        }

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._clip.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        pooled = self._clip.text_model(tokens.input_ids, tokens.attention_mask).pooler_output
        return F.normalize(self._clip.text_projection(pooled), dim=-1).cpu()


def adapted(clip: Any, config: ModelConfig, seed: int) -> Any:
    """A frozen `CLIPModel` with LoRA on its vision tower, and its visual projection to train unless locked.

    The adapters' first weights follow from the seed; the global random state stays as it was.
    """
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "lora"))
        return get_peft_model(clip, peft_config(config.lora, config.train_projection))


def peft_config(lora: LoraConfig, train_projection: bool) -> Any:
    """The adapter as PEFT describes it; a pattern, since the text tower's layers have the same names."""
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"vision_model\..*\.({'|'.join(lora.targets)})",
        modules_to_save=["visual_projection"] if train_projection else None,
        bias="none",
    )


def fingerprint(module: torch.nn.Module) -> str:
    """Changes when a parameter does: about 64 elements of each are looked at."""
    samples = [value.detach().flatten()[:: max(1, value.numel() // 64)] for value in module.parameters()]
    return hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes()).hexdigest()[:16]
