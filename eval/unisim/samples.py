"""One question of UniSim-Bench, whatever its data set, and what its pictures and texts mean in each task.

An answer is the index of a choice. What a choice is depends on the task:

========== ======================= ======================= =============================================
task       images                  texts                   label
========== ======================= ======================= =============================================
img_2afc   reference, first, other none                    the one that is closer to the reference
it_2afc    first, other            the prompt              the one that fits the prompt better
text_2afc  the picture             first, other            the text that fits the picture better
iqa        first, other            none                    the one of higher quality
paa        first, other            none                    the one with more of `attribute`
ooo        three                   none                    the one that does not belong
nafc       N, 2 or more            the prompt              the one that people prefer
ir         the query               none                    none: `easy`, `hard`, `junk` index the gallery
========== ======================= ======================= =============================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Task: TypeAlias = Literal["img_2afc", "it_2afc", "text_2afc", "iqa", "paa", "ooo", "ir", "nafc"]
TASKS: tuple[Task, ...] = get_args(Task)
Attribute: TypeAlias = Literal["brightness", "colorfulness", "contrast", "sharpness"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
#: Task -> how many images and texts a sample has; None: two or more.
_SHAPES: dict[Task, tuple[int | None, int]] = {
    "img_2afc": (3, 0),
    "it_2afc": (2, 1),
    "text_2afc": (1, 2),
    "iqa": (2, 0),
    "paa": (2, 0),
    "ooo": (3, 0),
    "ir": (1, 0),
    "nafc": (None, 1),
}


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        id: Of the question within its manifest: the same whatever else the manifest holds.
        task: Which of the tasks.
        images: Names of files below the data root, with forward slashes.
        texts: Texts, as the data set has them.
        label: Index of the right choice; None in `ir`, which ranks.
        attribute: What `paa` compares; None elsewhere.
        easy: Indices into the manifest's gallery that show the query's object well; `ir` only.
        hard: Those that show it badly.
        junk: Those that count neither for nor against a ranking.
    """

    id: str
    task: Task
    images: tuple[str, ...]
    texts: tuple[str, ...] = ()
    label: int | None = None
    attribute: Attribute | None = None
    easy: tuple[int, ...] = ()
    hard: tuple[int, ...] = ()
    junk: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"{self.id}: unknown task {self.task!r}; known are {', '.join(TASKS)}")
        images, texts = _SHAPES[self.task]
        if (len(self.images) < 2 if images is None else len(self.images) != images) or len(
            self.texts
        ) != texts:
            raise ValueError(
                f"{self.id}: {self.task} takes {images or '2 or more'} images and {texts} texts, "
                f"not {len(self.images)} and {len(self.texts)}"
            )
        if self.task == "ir":
            if self.label is not None:
                raise ValueError(f"{self.id}: ir ranks a gallery and has no label, not {self.label!r}")
        elif not isinstance(self.label, int) or not 0 <= self.label < self.choices:
            raise ValueError(
                f"{self.id}: label {self.label!r}; it is the index of one of {self.choices} choices"
            )
        if (self.attribute in ATTRIBUTES) != (self.task == "paa"):
            raise ValueError(
                f"{self.id}: attribute {self.attribute!r}; paa has one of {', '.join(ATTRIBUTES)}, "
                "other tasks have none"
            )

    @property
    def choices(self) -> int:
        """How many answers there are to choose from; 0 in `ir`."""
        if self.task == "ir":
            return 0
        return 2 if self.task in ("img_2afc", "text_2afc") else len(self.images)
