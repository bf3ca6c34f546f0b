"""UniPercept-Bench's questions: its domains, its words for what they are about, and the published accuracies.

Percent, from "UniPercept", arXiv 2512.21675, tables 2 to 4. Sizes follow from the percentages there; the
files are on the hub and not in the code. Table 4 prints the same figures for InternVL3-8B as for GPT-4o.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "UniPercept, arXiv 2512.21675, tables 2 to 4"
MODELS = ("UniPercept", "ArtiMuse", "InternVL3-8B")
#: Attribute of a question -> keys under which a file may have it, most likely first; case, spaces, - and _ do
#: not matter. The published files' own keys are not documented, so a config may name others.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "domain": ("domain", "task"),
    "category": ("category", "main_category", "class", "dimension", "aspect"),
    "criterion": ("criterion", "criteria", "sub_category", "sub_class", "attribute"),
    "template": ("template", "qa_template", "question_template", "question_type", "qa_type", "type"),
}


@dataclass(frozen=True)
class Published:
    """What was published about a domain.

    Attributes:
        questions: Their number.
        overall: Model -> percent of all of them.
        categories: Beginning of a category's name, in lower case -> model -> percent.
        templates: Question template -> model -> percent.
        sizes: Beginning of a category's name -> its questions.
    """

    questions: int
    overall: Mapping[str, float]
    categories: Mapping[str, Mapping[str, float]]
    templates: Mapping[str, Mapping[str, float]]
    sizes: Mapping[str, int]


def _by_name(names: str, **rows: tuple[float, ...]) -> dict[str, dict[str, float]]:
    labels = {"unipercept": "UniPercept", "artimuse": "ArtiMuse", "internvl": "InternVL3-8B"}
    return {
        name: {labels[model]: values[index] for model, values in rows.items()}
        for index, name in enumerate(names.split())
    }


_IAA = "compos visual tech origin theme emotion overall compreh"
_IQA = "distortion-location distortion-severity distortion-type"
_ISTA = "scene physical material geometric semantic"
PUBLISHED: dict[str, Published] = {
    "IAA": Published(
        1015,
        {"UniPercept": 76.55, "ArtiMuse": 66.31, "InternVL3-8B": 62.60},
        _by_name(
            _IAA,
            unipercept=(80.00, 77.54, 69.70, 80.56, 79.26, 80.95, 67.53, 69.77),
            artimuse=(67.69, 68.45, 64.85, 74.07, 71.85, 64.76, 61.04, 32.56),
            internvl=(65.64, 67.55, 59.39, 67.59, 69.63, 62.86, 50.65, 25.58),
        ),
        _by_name(
            "level-prediction how what which why yes-no",
            unipercept=(63.71, 92.20, 81.88, 75.32, 86.67, 84.62),
            artimuse=(39.14, 88.65, 76.81, 72.78, 85.33, 79.49),
            internvl=(36.00, 81.69, 73.91, 67.72, 86.00, 71.79),
        ),
        dict(zip(_IAA.split(), (195, 187, 165, 108, 135, 105, 77, 43), strict=True)),
    ),
    "IQA": Published(
        1088,
        {"UniPercept": 81.07, "InternVL3-8B": 63.69},
        _by_name(_IQA, unipercept=(77.43, 79.60, 90.98), internvl=(71.56, 52.84, 59.43)),
        _by_name(
            "level-prediction how what which why yes-no",
            unipercept=(79.60, 87.03, 80.86, 75.60, 83.42, 79.31),
            internvl=(52.84, 87.03, 59.88, 48.81, 71.12, 71.26),
        ),
        dict(zip(_IQA.split(), (545, 299, 244), strict=True)),
    ),
    "ISTA": Published(
        970,
        {"UniPercept": 84.23, "InternVL3-8B": 74.64},
        _by_name(
            _ISTA,
            unipercept=(89.74, 85.71, 82.44, 93.94, 78.51),
            internvl=(75.64, 79.12, 73.48, 33.33, 77.27),
        ),
        _by_name(
            "how what which why yes-no",
            unipercept=(82.69, 89.24, 78.54, 83.12, 85.51),
            internvl=(71.79, 78.78, 69.23, 77.92, 72.46),
        ),
        dict(zip(_ISTA.split(), (234, 182, 279, 33, 242), strict=True)),
    ),
}


def published(domain: str, kind: str = "overall", name: str = "") -> Mapping[str, float]:
    """Model -> published percent; empty where nothing was published.

    Args:
        domain: `IAA`, `IQA` or `ISTA`.
        kind: `overall`, `category` or `template`.
        name: Of the category, in the paper's words or near them ("Composition & Design"), or of the template.
    """
    known = PUBLISHED.get(domain)
    if known is None:
        return {}
    if kind == "overall":
        return known.overall
    if kind not in ("category", "template"):
        return {}
    plain = plain_name(name)
    table = known.categories if kind == "category" else known.templates
    found = [figures for start, figures in table.items() if plain.startswith(plain_name(start))]
    if not found and kind == "category" and domain == "IQA":  # "Type" for "Distortion Type"
        return published(domain, kind, f"distortion {name}") if not plain.startswith("distortion") else {}
    return found[0] if found else {}


def plain_name(name: str) -> str:
    """Letters and digits of a name in lower case: `QA-Template` and `qa_template` are one."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
