"""What the paper of UniSim-Bench reports, arXiv 2412.10594, to stand beside what is measured here.

Only figures that were at hand: means of tasks from the first figure, which the published repository has as
`assets/teaser.png`, and from tables 2 and 3. Of single data sets there are none here, and of PAA, OOO and IR
only their mean. The figure calls its general model CLIP; that it is ViT-L/14 follows from its mean, 76.8, and
from that of UniSim, 85.3, which the tables have of ViT-L/14.

They are of the paper's data sets (`eval.unisim.readers`), whose questions the published code draws anew at
each look. Accuracies are in percent, as printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eval.unisim.samples import Task

SOURCE = "arXiv 2412.10594"
FIGURE, TABLES = "figure 1", "tables 2, 3"


@dataclass(frozen=True)
class Published:
    """A row of published figures.

    Attributes:
        model: Its name.
        group: general, specialised or unified.
        source: Where the figures of single tasks stand.
        tasks: Task -> mean accuracy of its data sets, percent.
        averages: `core` and `ood` as in `eval.unisim.record.AVERAGES`, percent.
    """

    model: str
    group: str
    source: str
    tasks: Mapping[Task, float] = field(default_factory=dict)
    averages: Mapping[str, float] = field(default_factory=dict)


def _core(img: float, it: float, text: float, iqa: float) -> dict[Task, float]:
    return {"img_2afc": img, "it_2afc": it, "text_2afc": text, "iqa": iqa}


ROWS = (
    Published("CLIP ViT-B/32", "general", TABLES, _core(78.0, 70.6, 75.0, 67.0), {"core": 72.6, "ood": 61.9}),
    Published("CLIP ViT-L/14", "general", FIGURE, _core(73.9, 70.9, 80.2, 82.2), {"core": 76.8, "ood": 59.4}),
    Published("DreamSim", "specialised", FIGURE, {"img_2afc": 85.7}),
    Published("HPSv2", "specialised", FIGURE, {"it_2afc": 77.2}),
    Published("PAC-S", "specialised", FIGURE, {"text_2afc": 74.6}),
    Published("LIQE", "specialised", FIGURE, {"iqa": 88.5}),
    Published(
        "UniSim ViT-B/32", "unified", TABLES, _core(80.7, 75.8, 90.3, 85.3), {"core": 83.0, "ood": 56.3}
    ),
    Published(
        "UniSim ViT-L/14", "unified", FIGURE, _core(81.3, 80.2, 92.9, 87.0), {"core": 85.3, "ood": 48.8}
    ),
    Published("UniSim LL-N 0.5B", "unified", TABLES, {}, {"core": 84.4}),
)

#: TASK/DATASET of which the published UniSim was trained on the training split; of the rest it saw nothing.
TRAINED_ON = frozenset(
    {
        *("img_2afc/nights", "img_2afc/pieapp", "it_2afc/hpdv2", "it_2afc/magicbrush", "it_2afc/hq_edit"),
        *("text_2afc/polaris", "text_2afc/hq_edit", "iqa/kadid", "iqa/pieapp", "iqa/pipal"),
    }
)


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between the core tasks over a group of models.

    Attributes:
        group: Of which models.
        n: How many.
        tau: Two tasks, in the order of `TASKS` -> tau.
    """

    group: str
    n: int
    tau: Mapping[tuple[Task, Task], float]


_PAIRS: tuple[tuple[Task, Task], ...] = (
    ("img_2afc", "it_2afc"),
    ("img_2afc", "text_2afc"),
    ("img_2afc", "iqa"),
    ("it_2afc", "text_2afc"),
    ("it_2afc", "iqa"),
    ("text_2afc", "iqa"),
)
#: Computed from tables 2 and 3, whose own figure of it has no numbers to read.
AGREEMENT = (
    Agreement("general-purpose", 12, dict(zip(_PAIRS, (0.17, -0.03, 0.32, 0.54, 0.62, 0.56), strict=True))),
    Agreement("specialised", 5, dict(zip(_PAIRS, (-0.40, -0.40, 0.00, 0.20, -0.60, 0.20), strict=True))),
)
