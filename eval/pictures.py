"""Pictures as the pages show them, and as distances see them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from eval.generate import Item
from eval.metrics import diversity, pixel_distance
from flow_grpo.files import replacing

# Longer side in pixels: small pictures are enlarged to at least this, large ones reduced to it.
DISPLAY_SIDE = 384
_DIVERSITY_SIDE = 32


class Look(NamedTuple):
    """What is seen of one picture beside that of the reference.

    Attributes:
        pixels: Distance of the pixels, percent of the value range; NaN where either cannot be read.
        small: The picture at 32 x 32 uint8 [32, 32, 3]; none where it cannot be read.
        problem: Why not.
    """

    pixels: float
    small: np.ndarray | None
    problem: str | None


def look(reference: Path, file: Path) -> Look:
    """Read a picture and that of the reference; one that cannot be read is named, not an error."""
    try:
        image = open_picture(file)
    except ValueError as error:
        return Look(float("nan"), None, str(error))
    small = np.asarray(image.resize((_DIVERSITY_SIDE, _DIVERSITY_SIDE), PIL.Image.Resampling.BOX))
    try:
        other = image if file == reference else open_picture(reference)
    except ValueError:
        return Look(float("nan"), small, None)  # the reference's own look says why
    if other.size != image.size:
        other = other.resize(image.size, PIL.Image.Resampling.LANCZOS)
    return Look(pixel_distance(np.asarray(other), np.asarray(image)), small, None)


def displayed(image: PIL.Image.Image, side: int = DISPLAY_SIDE) -> PIL.Image.Image:
    """The picture at a size fit for a page.

    Browsers enlarge bilinearly, which smears a 64-pixel picture, or by repeating pixels, which shows squares
    that no model painted. Lanczos by a whole factor keeps edges sharp without either.
    """
    longest = max(image.size)
    if longest < side:
        factor = -(-side // longest)
        return image.resize((image.width * factor, image.height * factor), PIL.Image.Resampling.LANCZOS)
    scale = side / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, PIL.Image.Resampling.LANCZOS)


def write_displayed(source: Path, target: Path) -> tuple[int, int]:
    """Write `source` at display size as WebP, unless that is there already; returns its width and height.

    Raises:
        ValueError: The source is missing or no picture.
    """
    if not source.is_file():
        raise ValueError(f"{source} is missing")
    if not target.is_file() or target.stat().st_mtime_ns < source.stat().st_mtime_ns:
        target.parent.mkdir(parents=True, exist_ok=True)
        image = displayed(open_picture(source))
        with replacing(target) as beside:
            image.save(beside, format="WEBP", quality=92)
        return image.size
    with PIL.Image.open(target) as image:
        return image.size


def data_uri(source: Path, side: int = DISPLAY_SIDE) -> str:
    """The picture at display size as a `data:` address, for a page that must stand alone; empty where it
    cannot be read.
    """
    try:
        image = displayed(open_picture(source), side)
    except ValueError:
        return ""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def prompt_diversities(items: Sequence[Item], small: Sequence[np.ndarray | None]) -> np.ndarray:
    """Diversity of each prompt's members, prompts in order of first appearance [P]; NaN with one member.

    Args:
        items: The pictures [N].
        small: `Look.small` of each; a prompt with one that cannot be read has none.
    """
    members: dict[int, list[np.ndarray | None]] = {}
    for item, picture in zip(items, small, strict=True):
        members.setdefault(item.index, []).append(picture)
    return np.array([_diversity(group) for group in members.values()])


def _diversity(group: Sequence[np.ndarray | None]) -> float:
    known = [picture for picture in group if picture is not None]
    return diversity(np.stack(known)) if known and len(known) == len(group) else float("nan")


def clip_embedder(path: str, device: str) -> Callable[[Sequence[Path]], np.ndarray]:
    """A function from picture files to normalised image embeddings [N, E] of a CLIPModel folder.

    A file that cannot be read has a row of NaN.

    Raises:
        reward_plugin.errors.CheckpointError: The folder holds no CLIPModel.
    """
    import torch
    from transformers import CLIPModel

    from reward_plugin.scorers.clip_folder import load_model, load_processing
    from reward_plugin.source import find_folder

    folder = find_folder(path, None)
    _, processor = load_processing(folder)
    model = load_model(CLIPModel, folder, torch.float32).to(device)

    def embed(files: Sequence[Path]) -> np.ndarray:
        rows = np.full((len(files), model.config.projection_dim), np.nan, dtype=np.float32)
        images = {}
        for row, file in enumerate(files):
            try:
                images[row] = open_picture(file)
            except ValueError:
                continue
        if images:
            pixels = processor(list(images.values()), return_tensors="pt").pixel_values.to(device)
            with torch.inference_mode():
                hidden = model.vision_model(pixel_values=pixels).pooler_output
                found = torch.nn.functional.normalize(model.visual_projection(hidden), dim=-1)
            rows[list(images)] = found.cpu().numpy()
        return rows

    return embed


def open_picture(path: Path) -> PIL.Image.Image:
    """A picture file as RGB.

    Raises:
        ValueError: It is missing or damaged.
    """
    try:
        with PIL.Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is no readable picture ({error}); delete it and run again") from error
