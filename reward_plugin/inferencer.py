"""The class of the published `unipercept-reward` package, for code that already uses it.

from reward_plugin import UniPerceptRewardInferencer
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import PIL.Image

from reward_plugin.errors import BadImage, ConfigError
from reward_plugin.images import Exif, to_rgb
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

#: What becomes of an image without scores: an exception, its reason in its place, or the published None.
OnError: TypeAlias = Literal["raise", "reason", "none"]
#: Batches after which failures are looked at, so that one early in a long list raises early.
BATCHES_AT_ONCE = 16


class UniPerceptRewardInferencer:
    """UniPercept's three scores, behind the interface of `unipercept-reward` 1.0.3.

    Arguments, defaults and results are the published ones: `reward(image_paths=[...])` returns one dict per
    image with the float scores `iaa`, `iqa` and `ista`. In float32 they equal the published ones to 1e-3.

    Different on purpose:

    * `reward` also takes PIL images, uint8 arrays, tensors and encoded bytes, among paths or as `images=`.
    * An image that cannot be scored raises `BadImage` (`on_error="raise"`), or its entry is
      `{"error": reason}` (`"reason"`), or None and a logged warning (`"none"`, the published result). An
      error of the model itself, such as too little memory, always raises; the published class returns None
      for it.
    * Truncated files are refused. The published package switches on `LOAD_TRUNCATED_IMAGES` for the whole
      process and scores the missing part as grey. So are pictures beyond the limits of
      `reward_plugin.images`: over 64 million pixels, more than 8 bits a channel, rare formats.
    * One string instead of a list is refused; the published class takes each letter for a path.
    * The last step from logits to score is float32. The published bfloat16 softmax, which rounds scores to
      steps of 0.25 to 0.5, is `precision="published"`.
    * Images are scored `batch_size` at a time, each seen once for the three questions.
    * `device="auto"`, the default, is CUDA where there is any and CPU elsewhere; the published default,
      "cuda", fails on a machine without.
    * `model` is transformers' native InternVL, without the remote code's `score` and `chat`. `gen_cfg` and
      `transform` are gone: scoring generates nothing, and `preprocess_image` does the transform.
    * Another object on the same checkpoint shares its weights.
    """

    IMAGENET_MEAN = (0.485, 0.456, 0.406)
    IMAGENET_STD = (0.229, 0.224, 0.225)
    DEFAULT_HF_REPO = "Thunderbolt215215/UniPercept"

    def __init__(
        self,
        model_path: str | None = None,
        device: str = "auto",
        dtype: torch.dtype | str = "bfloat16",
        *,
        on_error: OnError = "raise",
        exif: Exif = "ignore",
        **options: Any,
    ) -> None:
        """Load the model.

        Args:
            model_path: folder in either layout, or hub id; the published repository where None.
            device: auto, cpu, cuda or cuda:N.
            dtype: as `torch.dtype` or by name; auto is bfloat16 on CUDA and float32 on CPU.
            on_error: what `reward` does about an image without scores: raise, reason or none.
            exif: pixels as they are stored, as published ("ignore"), or turned as the picture's orientation
                tag says ("apply").
            options: further options of `reward_plugin.scorers.unipercept.build`, such as batch_size,
                system_message or precision.

        Raises:
            CheckpointError, ConfigError: the model cannot be loaded, or an option is wrong.
        """
        from reward_plugin.devices import resolve
        from reward_plugin.engines import shared_checkpoint
        from reward_plugin.scorers import build_scorer
        from reward_plugin.scorers.unipercept import UniPerceptScorer
        from reward_plugin.source import find_folder

        self.on_error = _checked(on_error)
        if exif not in get_args(Exif):
            raise ConfigError(f"exif {exif!r}: write {' or '.join(get_args(Exif))}")
        self.exif: Exif = exif
        self.model_path = self.DEFAULT_HF_REPO if model_path is None else str(model_path)
        where, self.dtype = resolve(str(device), str(dtype).removeprefix("torch."))
        self.device = str(where)
        folder = str(find_folder(self.model_path, options.pop("revision", None)))
        spec = {
            "name": "unipercept",
            "path": folder,
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        scorer = build_scorer(spec | options)
        assert isinstance(scorer, UniPerceptScorer)
        self.scorer = scorer
        self.model = scorer.engine.model
        shared = {name: options[name] for name in ("attention", "quantise") if name in options}
        self.tokenizer = shared_checkpoint(folder, device=where, dtype=self.dtype, **shared).tokenizer

    def preprocess_image(self, image_path: ImageLike) -> torch.Tensor:
        """One image as the model sees it: [1, 3, 448, 448] in its dtype, on its device."""
        from reward_plugin.internvl import pixel_values

        pixels = pixel_values([to_rgb(image_path, exif=self.exif)], self.scorer.engine.image_size)
        return pixels.to(self.dtype).to(self.device)

    def reward(
        self,
        image_paths: Iterable[ImageLike] | None = None,
        *,
        images: Iterable[ImageLike] | None = None,
        on_error: OnError | None = None,
    ) -> list[dict[str, Any] | None]:
        """Score images on all three dimensions.

        Args:
            image_paths: paths, or pictures in any other accepted form.
            images: the same under another name; one of the two is given.
            on_error: replaces the constructor's choice for this call.

        Returns:
            per image, in order, `{"iaa": float, "iqa": float, "ista": float}`, each 0 to 100; for one without
            scores what `on_error` says.

        Raises:
            BadImage: with on_error "raise", for the first image without scores.
            ConfigError: neither or both of image_paths and images, or a single picture instead of a list.
        """
        pictures = images if image_paths is None else image_paths
        if pictures is None or (image_paths is not None and images is not None):
            raise ConfigError(
                "reward() takes a list of pictures, as image_paths or as images: give one of them"
            )
        source = iter(_several(pictures))
        on_error = self.on_error if on_error is None else _checked(on_error)
        results: list[dict[str, Any] | None] = []
        step = BATCHES_AT_ONCE * self.scorer.engine.batch_size
        while chunk := list(islice(source, step)):
            results += _results(self.scorer.score(chunk, exif=self.exif), len(results), on_error)
        return results


def _results(table: ScoreTable, first: int, on_error: OnError) -> list[dict[str, Any] | None]:
    """The rows of a table as `reward` returns them; `first` is the number of its first image."""
    results: list[dict[str, Any] | None] = []
    for index, (row, error) in enumerate(zip(table.rows(), table.errors, strict=True), first):
        if error is None:
            results.append(dict(row))
        elif on_error == "raise":
            raise BadImage(
                f"image {index}: {error} (on_error='reason' returns this in its place and scores the others)"
            )
        elif on_error == "reason":
            results.append({"error": error})
        else:
            log.warning("image %d has no scores: %s", index, error)
            results.append(None)
    return results


def _several(pictures: Iterable[ImageLike]) -> Iterable[ImageLike]:
    """The argument if it holds pictures, as an array or tensor does when it is a batch or a row of paths."""
    one = isinstance(pictures, str | bytes | bytearray | memoryview | PIL.Image.Image) or (
        getattr(pictures, "ndim", 1) not in (1, 4)
    )
    if one or not isinstance(pictures, Iterable):
        raise ConfigError(
            f"reward() takes a list of pictures, not a single {type(pictures).__name__}: put it into a list"
        )
    return pictures


def _checked(on_error: str) -> OnError:
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error {on_error!r}: write {', '.join(get_args(OnError))}")
    return on_error  # type: ignore[return-value]
