"""How large a tuned model's velocity is against that of the base, at the same noisy pictures.

A model that is rewarded for contrast or saturation can get it by predicting velocities that are too large,
as a high guidance scale would: its pictures are overdriven before anything else shows. Measured along the
base model's own trajectory, so that both see the same input: at each step the base's velocity moves the
latents, and the tuned one is computed beside it.

Shapes: B pictures, T steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.config import Sampling
from eval.generate import Item, sample
from flow_grpo.files import replacing

if TYPE_CHECKING:
    import torch
    from diffusers import FluxPipeline


def probed(count: int, wanted: int) -> list[int]:
    """Positions of `wanted` among `count` prompts, evenly spread, so that every category can be among
    them.
    """
    wanted = min(count, wanted)
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def velocity_ratios(pipeline: FluxPipeline, items: Sequence[Item], sampling: Sampling) -> np.ndarray:
    """Norm of the tuned velocity over that of the base, for each picture and step of the base [B, T].

    Args:
        pipeline: With the LoRA on it.
        items: Pictures whose trajectories are taken.
        sampling: How the base samples.
    """
    from flow_grpo.policy.lora import adapters_off

    module = pipeline.transformer
    predict = module.forward
    steps: list[torch.Tensor] = []

    def both(*inputs: Any, **named: Any) -> Any:
        tuned = predict(*inputs, **named)
        with adapters_off(module):
            base = predict(*inputs, **named)
        steps.append(_norm(tuned) / _norm(base))
        return base

    module.forward = both
    try:
        sample(pipeline, items, sampling)
    finally:
        del module.forward  # the class's own again
    return np.stack([step.cpu().numpy() for step in steps], axis=1)


def _norm(output: Any) -> torch.Tensor:
    """Euclidean norm of each picture's velocity [B], in float32."""
    velocity = output[0] if isinstance(output, tuple) else output.sample
    return velocity.float().flatten(1).norm(dim=1)


def measure(
    load: Callable[[], FluxPipeline],
    items: Sequence[Item],
    file: Path,
    *,
    sampling: Sampling,
    identity: dict[str, Any],
    batch_size: int,
) -> list[float]:
    """Mean ratio over the steps for each picture; what was measured with the same weights is read back.

    Args:
        load: Gives the pipeline with the LoRA; not called when the answer is in `file`.
        items: Pictures whose trajectories are taken.
        file: Where the answer is kept.
        sampling: How the base samples.
        identity: Names the weights.
        batch_size: Pictures at a time.
    """
    settings = {**asdict(sampling), **identity, "items": [[item.prompt, item.member] for item in items]}
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["settings"] == settings:
            return list(known["ratios"])
    ratios: list[float] = []
    pipeline = load()
    for start in range(0, len(items), batch_size):
        batch = velocity_ratios(pipeline, items[start : start + batch_size], sampling)
        ratios += batch.mean(axis=1, dtype=np.float64).tolist()
    with replacing(file) as beside:
        beside.write_text(json.dumps({"settings": settings, "ratios": ratios}, indent=1), encoding="utf-8")
    return ratios
