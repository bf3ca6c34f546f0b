"""Any no-reference metric of pyiqa (Chen et al., IQA-PyTorch): musiq, clipiqa+, topiq_iaa, niqe and others.

**pyiqa is licensed PolyForm-Noncommercial-1.0.0**: it may not be used commercially, and some of its metrics
carry licences of their own. So it is never installed with this package; whoever may use it installs the
extra: pip install 'flow-grpo-perceptual[pyiqa]'. Nothing else here imports it. The metrics download weights
on first use.

Scores are pyiqa's own, on each metric's own scale; where lower is better (niqe, brisque, piqe), give it a
negative weight. As published: float tensors from 0 to 1, one picture at a time at its own size.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.images import to_rgb_each
from reward_plugin.types import ImageLike, ScoreTable

if TYPE_CHECKING:
    import PIL.Image

log = logging.getLogger(__name__)

LICENCE = "pyiqa is licensed PolyForm-Noncommercial-1.0.0: commercial use is not allowed"
#: What rates sets of pictures, or needs more than a picture.
UNFIT = re.compile(r"fid|inception_score|clipscore|compare2score")
_NUMBER = re.compile(r"~?(-?\d+(?:\.\d+)?)")


class PyiqaScorer:
    """Scores images with one metric; prompts are not looked at."""

    name = "pyiqa"

    def __init__(self, metric: Any, dimension: str) -> None:
        """Take a metric of `pyiqa.create_metric`; `dimension` names the column."""
        self.metric = metric
        self.dimensions = (dimension,)
        self.ranges: Mapping[str, tuple[float, float]] = {dimension: score_range(metric.score_range)}

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        """Score each image; one that the metric fails on, such as one too small for it, is missing."""
        good, errors = to_rgb_each(images)
        at = [i for i, error in enumerate(errors) if error is None]
        values: list[float] = []
        for i, image in zip(at, good, strict=True):
            try:
                values.append(self._rate(image))
            except (RuntimeError, ValueError, AssertionError, IndexError) as error:
                errors[i] = f"{self.dimensions[0]} failed: {str(error).partition(chr(10))[0]}"
        return ScoreTable.computed(self.dimensions, values).scatter(errors)

    def _rate(self, image: PIL.Image.Image) -> float:
        import torch

        from reward_plugin.scorers.pixel_values import to_tensor

        with torch.inference_mode():
            return float(self.metric(to_tensor([image])))


def score_range(text: str | None) -> tuple[float, float]:
    """pyiqa's words for a range ("~0, ~100") as numbers; -1000 and 1000 where it names no bound."""
    low, _, high = (text or "").partition(",")
    bounds = [_NUMBER.fullmatch(part.strip()) for part in (low, high)]
    return (float(bounds[0][1]) if bounds[0] else -1000.0, float(bounds[1][1]) if bounds[1] else 1000.0)


def build(metric: str, device: str = "auto") -> PyiqaScorer:
    """Load a metric; for non-commercial use only.

    Args:
        metric: name of a no-reference metric, as `pyiqa.list_models("NR")` lists them; also the dimension's.
        device: auto, cpu, cuda or cuda:N.
    """
    from reward_plugin.devices import resolve

    where, _ = resolve(device, "float32")
    try:
        import pyiqa
    except ImportError as error:
        raise ConfigError(
            f"scorer 'pyiqa' needs pyiqa, which is not installed with this package ({error}). {LICENCE}; "
            "where that fits, pip install 'flow-grpo-perceptual[pyiqa]'"
        ) from error
    known = [name for name in pyiqa.list_models("NR") if not UNFIT.search(name)]
    if metric not in known:
        raise ConfigError(f"pyiqa metric {metric!r}: not a no-reference metric; known are {', '.join(known)}")
    log.warning("%s", LICENCE)
    try:
        model = pyiqa.create_metric(metric, device=where)
    except (OSError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            f"pyiqa metric {metric!r}: cannot be loaded ({str(error).partition(chr(10))[0]}); its weights "
            "are downloaded on first use: load it once where there is network, and copy pyiqa's cache folder"
        ) from error
    if model.lower_better:
        log.warning("pyiqa metric %s: lower is better; as a reward, give it a negative weight", metric)
    return PyiqaScorer(model, metric)
