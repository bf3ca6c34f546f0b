"""A question about pictures, with or without texts, that has a few answers; and what a model answered.

========== ======================= ======================= =============================================
task       images                  texts                   the choices
========== ======================= ======================= =============================================
img_2afc   reference, first, other none                    0 and 1: which is closer to the reference
it_2afc    first, other            the text                0 and 1: which fits the text better
text_2afc  the picture             first, other            0 and 1: which text fits the picture better
iqa        first, other            none                    0 and 1: which is of higher quality
paa        first, other            none                    0 and 1: which has more of `attribute`
ooo        three                   none                    0, 1 and 2: which does not belong
nafc       N, 2 or more            the text                0 to N - 1: which fits the text best
========== ======================= ======================= =============================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reward_plugin.errors import ConfigError
from reward_plugin.types import ImageLike
from reward_plugin.unisim.prompts import ATTRIBUTES

#: Task -> how many images and texts a question has; None: two or more.
SHAPES: Mapping[str, tuple[int | None, int]] = {
    "img_2afc": (3, 0),
    "it_2afc": (2, 1),
    "text_2afc": (1, 2),
    "iqa": (2, 0),
    "paa": (2, 0),
    "ooo": (3, 0),
    "nafc": (None, 1),
}


@dataclass(frozen=True, eq=False)
class Question:
    """One question; a task, a number of images or texts, or an attribute that is not in the table above is a
    ConfigError.

    Attributes:
        task: which of the tasks.
        images: in the table's order.
        texts: the same.
        attribute: brightness, colorfulness, contrast or sharpness, in `paa`; None elsewhere.
    """

    task: str
    images: Sequence[ImageLike]
    texts: Sequence[str] = ()
    attribute: str | None = None

    def __post_init__(self) -> None:
        if self.task not in SHAPES:
            raise ConfigError(f"task {self.task!r}: write {', '.join(SHAPES)}")
        images, texts = SHAPES[self.task]
        enough = len(self.images) >= 2 if images is None else len(self.images) == images
        if isinstance(self.texts, str) or not enough or len(self.texts) != texts:
            given = "one text by itself" if isinstance(self.texts, str) else f"{len(self.texts)}"
            raise ConfigError(
                f"task {self.task}: it takes {images or '2 or more'} images and a list of {texts} texts, not "
                f"{len(self.images)} and {given}"
            )
        if (self.attribute in ATTRIBUTES) != (self.task == "paa"):
            raise ConfigError(
                f"attribute {self.attribute!r}: task paa takes one of {', '.join(ATTRIBUTES)}, others none"
            )

    @property
    def choices(self) -> int:
        """How many answers there are to choose from."""
        return 2 if self.task in ("img_2afc", "text_2afc") else len(self.images)


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        choice: index of its choice; None where there is an error, or none could be read in its text.
        scores: of an encoder: one of each choice, by which it chose.
        margin: of an encoder: by how much the chosen one's is above the next best, 0 for a tie.
        text: of a generative model: what it wrote.
        error: why the question could not be asked, None where it was.
    """

    choice: int | None
    scores: tuple[float, ...] = ()
    margin: float | None = None
    text: str | None = None
    error: str | None = None
