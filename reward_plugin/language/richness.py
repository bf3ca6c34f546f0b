"""The UniPercept paper's ISTA score of a structure annotation: how rich its structures and textures are.

arXiv 2512.21675, section 8.2, equations 4 to 12 and table 9. Symbols as there:

    S(c)   = sum of w(t) over base morphology + the number of entries in each other list   (5-9)
    S_ista = |C| + sum of S(c) over the components C                                       (10)
           = 1 + S(image) for an image without components                                  (11)
    S_ista is clipped at 100                                                               (12)

This is how the ratings of ISTA-10K were made; it is not the model's own ISTA rating, which is read from its
letter tokens. Entries are counted as a set: "N/A" and repetitions do not count. `Dynamics`, which the
annotation prompt allows, is not in the formula. `fibrous` and `interlaced` are in the prompt's vocabulary but
not in table 9, so they weigh nothing, as any other term outside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reward_plugin.errors import ConfigError
from reward_plugin.language.structure import Component, Structure

_WEAK = "smooth plain uniform lined grid striped chequered dotted freckled"
_MEDIUM = "braided woven crosshatched meshed cobwebbed lacelike knitted spiralled swirly"
_STRONG = (
    "bumpy blotchy bubbly cracked crystalline flecked frilly grooved honeycombed marbled matted paisley "
    "perforated pitted pleated porous scaly smeared sprinkled stratified studded veined wrinkled zigzagged"
)

#: Table 9: texture term -> weight w(t); a term that is not listed weighs 0.
TEXTURE_WEIGHTS: Mapping[str, int] = {
    term: weight for weight, terms in ((1, _WEAK), (2, _MEDIUM), (3, _STRONG)) for term in terms.split()
}

#: The four sub-scores and what they count, equations 6 to 9; base morphology is weighed, the rest counted.
SUB_SCORES: Mapping[str, tuple[str, ...]] = {
    "physical_structure": ("BaseMorphology", "Arrangement"),
    "material_representation": ("MaterialClass", "SurfaceProperties"),
    "geometric_composition": ("PlanarContour", "VolumetricForm"),
    "semantic_perception": ("FunctionalInference", "StyleType"),
}

HIGHEST = 100


@dataclass(frozen=True)
class Richness:
    """The score of an annotation and where it comes from.

    Attributes:
        score: 0 to 100.
        unclipped: before equation 12.
        components: for each component, in order, its four sub-scores.
        unlisted: base morphology terms that are not in the lexicon and so weighed nothing, each once.
    """

    score: int
    unclipped: int
    components: tuple[Mapping[str, int], ...]
    unlisted: tuple[str, ...]


def richness(structure: Structure, weights: Mapping[str, int] = TEXTURE_WEIGHTS) -> Richness:
    """Score an annotation.

    Args:
        structure: a checked annotation.
        weights: texture term, in lower case -> weight.
    """
    parts = tuple(_sub_scores(component, weights) for component in structure.components)
    total = len(parts) + sum(sum(part.values()) for part in parts)
    missed = {
        term.casefold(): None
        for component in structure.components
        for term in component.terms["BaseMorphology"]
        if term.casefold() not in weights
    }
    return Richness(min(total, HIGHEST), total, parts, tuple(missed))


def _sub_scores(component: Component, weights: Mapping[str, int]) -> dict[str, int]:
    return {
        name: sum(
            sum(weights.get(term.casefold(), 0) for term in component.terms[listed])
            if listed == "BaseMorphology"
            else len(component.terms[listed])
            for listed in lists
        )
        for name, lists in SUB_SCORES.items()
    }


def load_weights(path: str | Path) -> dict[str, int]:
    """Another lexicon: a JSON object of texture term -> weight, a whole number from 0 up.

    Raises:
        ConfigError: the file is not that.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"lexicon {path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict) or not value:
        raise ConfigError(f'lexicon {path}: must be a JSON object such as {{"smooth": 1, "woven": 2}}')
    for term, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise ConfigError(
                f"lexicon {path}: {term} weighs {weight!r}; it must be a whole number from 0 up"
            )
    return {term.casefold().strip(): weight for term, weight in value.items()}
