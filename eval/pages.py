"""What report and gallery share: names of dimensions, numbers as text, and the template environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.alarms import CLIP_DISTANCE, DIVERSITY, NEUTRAL, PIXEL_DISTANCE, VELOCITY
from eval.numbers import signed

if TYPE_CHECKING:
    import jinja2

LABELS = {
    "reward": "Weighted reward",
    "iaa": "Aesthetics (IAA)",
    "iqa": "Quality (IQA)",
    "ista": "Structure (ISTA)",
    "adherence": "Prompt adherence",
    "colourfulness": "Colourfulness",
    "grid_energy": "Grid energy",
    DIVERSITY: "Diversity within a prompt",
    VELOCITY: "Velocity against base",
    PIXEL_DISTANCE: "Distance in pixels, %",
    CLIP_DISTANCE: "Distance in CLIP space, %",
    "pickscore": "PickScore",
    "hpsv2": "HPSv2",
    "imagereward": "ImageReward",
    "laion_aesthetic": "LAION aesthetics",
    "artimuse": "ArtiMuse",
    "ocr": "Text read back (OCR)",
    "unisim_adherence": "Adherence (UniSim)",
    "unisim_quality": "Quality (UniSim)",
    "unisim_brightness": "Brightness (UniSim)",
    "unisim_colorfulness": "Colourfulness (UniSim)",
    "unisim_contrast": "Contrast (UniSim)",
    "unisim_sharpness": "Sharpness (UniSim)",
}
_ROLES = ("reward", "trained", "held_out", "distance")
_DISTANCES = {PIXEL_DISTANCE: "pixels", CLIP_DISTANCE: "clip"}
NO_VALUE = "–"


@dataclass(frozen=True)
class Dimension:
    """A dimension as a page shows it.

    Attributes:
        name: As in the record.
        label: As printed.
        role: `reward`, `trained`, `held_out` or `distance`.
        weight: In the reward; None unless trained.
        digits: Decimals that its numbers need.
    """

    name: str
    label: str
    role: str
    weight: float | None
    digits: int

    @property
    def neutral(self) -> bool:
        """Whether neither direction is good in itself; of a trained dimension up is what was asked for."""
        return self.role not in ("reward", "trained") and self.name in NEUTRAL

    def text(self, value: float | None) -> str:
        """A score."""
        return NO_VALUE if value is None else f"{value:.{self.digits}f}".replace("-", "−")

    def delta(self, value: float | None) -> str:
        """A difference of scores, with its sign."""
        return NO_VALUE if value is None else signed(value, self.digits)

    def tone(self, value: float | None) -> str:
        """`up`, `down` or `flat`, as the printed difference reads.

        Only where higher is better: of a pixel statistic neither direction is good in itself.
        """
        if value is None or self.neutral or not float(f"{value:.{self.digits}f}"):
            return "flat"
        return "up" if value > 0 else "down"


def dimensions(results: Mapping[str, Any]) -> list[Dimension]:
    """All dimensions of a record: reward, trained, held-out metrics, pixel statistics, then distances."""
    found = []
    for entry in results["dimensions"]:
        name = entry["name"]
        means = [abs(model["distribution"].get(name, {}).get("mean") or 0.0) for model in results["models"]]
        found.append(Dimension(name, label(name), entry["role"], entry["weight"], _digits(max(means))))
    return sorted(found, key=lambda d: (_ROLES.index(d.role), d.neutral, d.name != "adherence"))


def label(name: str) -> str:
    """A dimension's name as printed."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def main_dimensions(shown: Sequence[Dimension]) -> list[Dimension]:
    """Those that are judged: reward, trained, and held-out metrics that should be high."""
    return [dimension for dimension in shown if not dimension.neutral]


def scores_of(results: Mapping[str, Any], side: str, name: str) -> list[float]:
    """All values of a dimension on one side, one for each picture or prompt that has one."""
    if name in (DIVERSITY, VELOCITY):
        return finite([prompt[name][side] for prompt in results["prompts"]])
    return finite([value_of(sample["sides"][side], name) for sample in results["samples"]])


def value_of(side: Mapping[str, Any], name: str) -> float | None:
    """A score, or a distance, of one picture."""
    if name in _DISTANCES:
        distance: float | None = side["distance"][_DISTANCES[name]]
        return distance
    value: float | None = side["scores"].get(name)
    return value


def sample_difference(sample: Mapping[str, Any], baseline: str, model: str, name: str) -> float | None:
    """Tuned minus base of one pair; None where either score is missing."""
    base, tuned = (sample["sides"][side]["scores"].get(name) for side in (baseline, model))
    return None if base is None or tuned is None else tuned - base


def finite(values: Sequence[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None and math.isfinite(value)]


def pair_id(sample: Mapping[str, Any]) -> str:
    """Anchor of a pair in the gallery: `#pair-<id>`."""
    return f"{sample['prompt_index']}-{sample['member']}"


def templates() -> jinja2.Environment:
    """Templates of this package; text is escaped, a misspelt variable is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element whatever the prompts contain."""
    import json

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def footer(results: Mapping[str, Any]) -> str:
    """Where the page comes from, in one line."""
    versions = results["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "diffusers") if versions.get(name))
    commit = f", commit {versions['commit'][:10]}" if versions.get("commit") else ""
    return f"{results['created'].replace('T', ' ').replace('+00:00', ' UTC')} · {libraries}{commit}"


def _digits(magnitude: float) -> int:
    return 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3 if magnitude >= 0.1 else 4
