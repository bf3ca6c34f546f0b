"""Pictures of one model for a list of prompts, written once and found again.

Both sides of a comparison start from the same noise, seeded by (seed, prompt index, member), so a pair
differs by the weights alone. Neither batch size nor order nor an interruption changes a picture by more than
the rounding of batched matrix products. What is on disk is kept: a manifest beside the pictures names the
settings and the exact weights they came from. Several processes each make a share and keep a manifest of
their own beside it, which the first one joins to it at the beginning and at the end.

Shapes: B pictures in a batch, L latent tokens, C channels of a token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.config import Sampling
from eval.processes import Processes
from flow_grpo.files import replacing
from flow_grpo.noise import normal, seed_of

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from diffusers import FluxPipeline

LORA_FILE = "pytorch_lora_weights.safetensors"
_MANIFEST = "manifest.json"
_MANIFEST_VERSION = 1
_DIGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Item:
    """One picture to make: a prompt, its position in the prompt file, and which of its members."""

    prompt: str
    index: int
    member: int

    @property
    def file(self) -> str:
        """Name of the picture within its model's folder."""
        return f"{self.index:04d}-{self.member}.png"


class Models:
    """FLUX pipelines, loaded when first needed and one at a time, with or without a LoRA on them.

    Args:
        dtype: `float32`, `bfloat16` or `float16`.
        device: Torch device.
    """

    def __init__(self, dtype: str, device: str) -> None:
        self._dtype, self._device = dtype, device
        self._path: str | None = None
        self._pipeline: FluxPipeline | None = None
        self._lora: Path | None = None

    def __call__(self, path: str, lora: Path | None) -> FluxPipeline:
        """The pipeline with exactly this LoRA, or none.

        The LoRA stays beside the weights and is not merged into them: merging in bfloat16 would round
        differently from what training sampled with.

        Args:
            path: Folder or hub name for `FluxPipeline.from_pretrained`.
            lora: A LoRA file.

        Raises:
            ValueError: The folder holds no FLUX pipeline, or the LoRA does not fit it.
        """
        if self._pipeline is None or path != self._path:
            self._pipeline = None  # the former one makes room first
            self._pipeline = _load_pipeline(path, self._dtype, self._device)
            self._path, self._lora = path, None
        if lora != self._lora:
            self._pipeline.unload_lora_weights()
            if lora is not None:
                _load_lora(self._pipeline, lora)
            self._lora = lora
        return self._pipeline


def generate(
    load: Callable[[], FluxPipeline],
    items: Sequence[Item],
    folder: Path,
    *,
    sampling: Sampling,
    identity: dict[str, Any],
    batch_size: int = 8,
    label: str = "images",
    processes: Processes | None = None,
) -> int:
    """Make the pictures that are not there yet.

    Args:
        load: Gives the pipeline; not called when every picture is on disk already.
        items: Pictures wanted.
        folder: Where they lie, one PNG each, with `manifest.json`.
        sampling: How to sample.
        identity: Names the weights (see `model_identity`, `lora_identity`). Pictures of another identity, of
            other sampling settings or of another prompt text are made anew.
        batch_size: Pictures sampled together.
        label: Text of the progress bar.
        processes: With whom the work is shared; all of them have to call this.

    Returns:
        Number of pictures that this process made.
    """
    settings = {**asdict(sampling), **identity}
    rank, first = (processes.rank, processes.first) if processes else (0, True)
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        _join(folder, settings)
    if processes:
        processes.wait()
        items = processes.share(items)
    made = _make(load, items, folder, settings, sampling, batch_size, label, rank)
    if processes:
        processes.wait()
    if first:
        _join(folder, settings)
    return made


def _make(
    load: Callable[[], FluxPipeline],
    items: Sequence[Item],
    folder: Path,
    settings: dict[str, Any],
    sampling: Sampling,
    batch_size: int,
    label: str,
    rank: int,
) -> int:
    from tqdm import tqdm

    done = _finished(folder / _MANIFEST, settings)
    pending = [item for item in items if done.get(item.file) != item.prompt]
    if not pending:
        return 0
    pipeline = load()
    mine: dict[str, str] = {}
    already = len(items) - len(pending)
    with tqdm(total=len(items), initial=already, desc=label, unit="image", disable=rank > 0) as bar:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            for item, image in zip(batch, sample(pipeline, batch, sampling), strict=True):
                with replacing(folder / item.file) as path:
                    image.save(path, format="PNG")
                mine[item.file] = item.prompt
            _write_manifest(folder / f"manifest-{rank}.json", settings, mine)
            bar.update(len(batch))
    return len(pending)


def sample(pipeline: FluxPipeline, items: Sequence[Item], sampling: Sampling) -> list[PIL.Image.Image]:
    """One batch through `FluxPipeline` itself, from each item's own noise."""
    import torch

    with torch.inference_mode():
        output = pipeline(
            prompt=[item.prompt for item in items],
            latents=noise(pipeline, items, sampling),
            num_inference_steps=sampling.num_steps,
            guidance_scale=sampling.guidance_scale,
            height=sampling.height,
            width=sampling.width,
            max_sequence_length=sampling.max_sequence_length,
        )
    return list(output.images)


def noise(pipeline: FluxPipeline, items: Sequence[Item], sampling: Sampling) -> torch.Tensor:
    """Starting latents in the pipeline's packed layout: float32 [B, L, C] on the CPU.

    Raises:
        ValueError: Height or width is not a multiple of what the pipeline can make.
    """
    multiple = 2 * pipeline.vae_scale_factor
    for name, value in (("height", sampling.height), ("width", sampling.width)):
        if value < multiple or value % multiple:
            raise ValueError(f"sampling.{name} is {value}: this model needs a multiple of {multiple}")
    channels = pipeline.transformer.config.in_channels // 4
    h, w = (2 * (side // multiple) for side in (sampling.height, sampling.width))
    seeds = [seed_of(sampling.seed, "eval", item.index, item.member) for item in items]
    return pipeline._pack_latents(normal(seeds, (channels, h, w)), len(items), channels, h, w)


def find_lora(path: str | Path) -> Path:
    """The LoRA file at `path`, which is that file or the folder a training run wrote it to.

    Raises:
        ValueError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"lora: {path} does not exist; give a run's folder or a {LORA_FILE}")
    file = path / LORA_FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"lora: {path} has no {LORA_FILE}; finish a training run first or give another folder"
        )
    return file


def lora_identity(file: Path) -> dict[str, Any]:
    """`{"lora": SHA-256 of the file}`."""
    with open(file, "rb") as stream:
        return {"lora": hashlib.file_digest(stream, "sha256").hexdigest()}


def model_identity(path: str) -> dict[str, Any]:
    """`{"model": digest}` of a pipeline folder, or its name where it is not a local folder.

    The digest covers names and sizes of all weight and JSON files and up to the first and last MiB of each:
    enough to notice other weights, without reading 24 GB.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {"model": path}
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in {".safetensors", ".bin", ".json"}):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with open(file, "rb") as stream:
            digest.update(stream.read(_DIGEST_BYTES))
            stream.seek(max(0, size - _DIGEST_BYTES))
            digest.update(stream.read(_DIGEST_BYTES))
    return {"model": digest.hexdigest()}


def _join(folder: Path, settings: dict[str, Any]) -> None:
    """Put the processes' manifests into the one; a manifest of other settings gives way to an empty one."""
    parts = sorted(folder.glob("manifest-*.json"))
    images = _finished(folder / _MANIFEST, settings)
    for part in parts:  # newer than the one, and no picture is in two
        images |= _finished(part, settings)
    _write_manifest(folder / _MANIFEST, settings, images)
    for part in parts:
        part.unlink()


def _write_manifest(path: Path, settings: dict[str, Any], images: dict[str, str]) -> None:
    manifest = {"version": _MANIFEST_VERSION, "settings": settings, "images": images}
    with replacing(path) as beside:
        beside.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def _finished(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    """File name -> prompt of the pictures that a manifest vouches for under these settings."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    if manifest.get("version") != _MANIFEST_VERSION or manifest.get("settings") != settings:
        return {}
    return {name: text for name, text in manifest["images"].items() if (path.parent / name).is_file()}


def _load_pipeline(path: str, dtype: str, device: str) -> FluxPipeline:
    import torch
    from diffusers import FluxPipeline

    folder = Path(path)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"model: {path} has no model_index.json; give a folder written by FluxPipeline.save_pretrained"
        )
    try:
        pipeline = FluxPipeline.from_pretrained(path, torch_dtype=getattr(torch, dtype))
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model: {path} is no local folder and could not be fetched from the hub: {reason}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _load_lora(pipeline: FluxPipeline, file: Path) -> None:
    try:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"lora: {file} does not load into this model: {reason}") from error
    if not pipeline.get_active_adapters():
        raise ValueError(
            f"lora: {file} has no weights for this model's transformer; was it trained on another model?"
        )
