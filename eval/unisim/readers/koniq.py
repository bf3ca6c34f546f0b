"""KonIQ-10K: photographs, rated for quality and measured in four attributes (Hosu et al., IEEE TIP 2020).

Any two pictures of the split are compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.unisim.draw import pairs
from eval.unisim.reading import Ask, Drawn, finite, read_table
from eval.unisim.samples import Attribute, Sample

_FOLDER = "koniq10k"


def koniq_quality(ask: Ask) -> Drawn:
    """Which of two pictures is rated better."""
    drawn = Drawn()
    return _draw(
        ask, drawn, {name: row["MOS"] for name, row in _split(ask, drawn, ("MOS",)).items()}, "MOS", None
    )


def koniq_brightness(ask: Ask) -> Drawn:
    """Which of two pictures is brighter."""
    return _measured(ask, "brightness")


def koniq_colorfulness(ask: Ask) -> Drawn:
    """Which of two pictures is more colourful."""
    return _measured(ask, "colorfulness")


def koniq_contrast(ask: Ask) -> Drawn:
    """Which of two pictures has more contrast."""
    return _measured(ask, "contrast")


def koniq_sharpness(ask: Ask) -> Drawn:
    """Which of two pictures is sharper."""
    return _measured(ask, "sharpness")


def _measured(ask: Ask, attribute: Attribute) -> Drawn:
    drawn = Drawn()
    table = ask.file(f"{_FOLDER}/koniq10k_indicators.csv")
    measured = {
        row["image_id"].removesuffix(".jpg"): row[attribute]
        for _, row in read_table(table, ("image_id", attribute))
        if row
    }
    values = {name: measured.get(name.removesuffix(".jpg"), "") for name in _split(ask, drawn, ())}
    return _draw(ask, drawn, values, attribute, attribute)


def _split(ask: Ask, drawn: Drawn, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Name -> row, of the pictures of the split."""
    split = {"train": "training"}.get(ask.split, ask.split)
    found: dict[str, dict[str, str]] = {}
    table = ask.file(f"{_FOLDER}/koniq10k_distributions_sets.csv")
    for where, row in read_table(table, ("image_name", "set", *columns)):
        if row is None:
            drawn.leave(where, "has not as many cells as the first line")
        elif row["set"] != split:
            continue
        elif row["image_name"] in found:
            drawn.leave(where, f"repeats {row['image_name']}")
        else:
            found[row["image_name"]] = row
    return found


def _draw(
    ask: Ask, drawn: Drawn, values: Mapping[str, str], column: str, attribute: Attribute | None
) -> Drawn:
    """Pairs out of the names, in an order that is drawn, without those that cannot be asked."""
    names = sorted(values)
    numbers = {name: finite(value) for name, value in values.items()}
    bad: dict[str, str] = {}
    for name in names:
        problem = ask.files.problem([f"{_FOLDER}/1024x768/{name}"])
        if numbers[name] is None:
            bad[name] = f"{column} is {values[name]!r}, not a number"
        elif problem:
            bad[name] = problem
        if name in bad:
            drawn.leave(name, bad[name])
    count = ask.count if ask.count is not None else ask.dataset.count
    for first, other in pairs(len(names), ask.seed, "koniq", column):
        if len(drawn.samples) == count:
            break
        pair = names[first], names[other]
        one, two = numbers[pair[0]], numbers[pair[1]]
        if bad.keys() & set(pair) or one is None or two is None:
            continue
        if one == two:
            drawn.leave(" and ".join(pair), f"a tie: {column} is {one:g} for both")
            continue
        images = tuple(f"{_FOLDER}/1024x768/{name}" for name in pair)
        task = "iqa" if attribute is None else "paa"
        drawn.samples.append(
            Sample("/".join(pair), task, images, label=int(one < two), attribute=attribute)  # type: ignore[arg-type]
        )
    drawn.notes.append(
        f"Distinct pairs of the {len(names)} pictures of the split, drawn from the seed and the sorted "
        "names; the published code pairs each picture with another one anew at each look, in an order that "
        "depends on its workers."
    )
    return drawn
