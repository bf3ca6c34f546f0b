"""The texts that UniSim's encoders compare a picture with, to rate its quality or a perceptual attribute.

Exactly as in the published code, full stops included, which some of them lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from reward_plugin.errors import ConfigError

Quantity: TypeAlias = Literal["quality", "brightness", "colorfulness", "contrast", "sharpness"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
ATTRIBUTES: tuple[Quantity, ...] = QUANTITIES[1:]

_NAIVE: Mapping[Quantity, tuple[str, ...]] = {
    "quality": ("A high-quality photo.",),
    "brightness": ("A bright photo.",),
    "colorfulness": ("A very colorful photo.",),
    "contrast": ("A high contrast photo.",),
    "sharpness": ("A very sharp photo",),
}
#: Formula -> quantity -> one text, whose cosine is the score; or a text and its opposite, for a softmax.
PROMPTS: Mapping[str, Mapping[Quantity, tuple[str, ...]]] = {
    "naive": _NAIVE,  # the code; the published models are trained with its text for quality
    "paper": {**_NAIVE, "quality": ("A high quality photo.",)},  # as the paper prints it
    "clip_iqa": {
        "quality": ("Good photo.", "Bad photo."),
        "brightness": ("Bright photo.", "Dark photo."),
        "colorfulness": ("Colorful photo.", "Dull photo"),
        "contrast": ("High contrast photo.", "Low contrast photo."),
        "sharpness": ("Sharp photo.", "Blurry photo."),
    },
}


def texts_for(quantity: str, formula: str = "naive") -> tuple[str, ...]:
    """The one text, or the text and its opposite, by which a formula rates a quantity.

    Raises:
        ConfigError: there is no such formula or quantity, with those that there are.
    """
    if formula not in PROMPTS:
        raise ConfigError(f"formula {formula!r}: write {', '.join(PROMPTS)}")
    for known, texts in PROMPTS[formula].items():
        if quantity == known:
            return texts
    raise ConfigError(f"quantity {quantity!r}: write {', '.join(QUANTITIES)}")
