"""The gallery: every pair side by side, with scores, filter, sorting, progress strips and a full-screen view.

`gallery/index.html` needs nothing but the pictures beside it, so it opens from disk and from any static host.
The page holds one heading for each pair and the scores as data; the script fills in the cards that are near
the window, so that thousands of pairs stay smooth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import PIL.Image

from eval.alarms import PIXEL_DISTANCE
from eval.pages import Dimension, dimensions, footer, pair_id, script_json, templates, value_of
from eval.pictures import DISPLAY_SIDE, write_displayed
from eval.results import headline
from flow_grpo.files import replacing

#: What the two sides are called where there are only two models.
_LABELS = ("Before", "After")
# Shown on every card; the others appear with "All scores" and in the full-screen view.
_ALWAYS = ("adherence",)
#: Of a picture that is missing, so that its place keeps a shape.
_SQUARE = (DISPLAY_SIDE, DISPLAY_SIDE)


def write_gallery(results: Mapping[str, Any], out: Path) -> Path:
    """Write `gallery/index.html` and the pictures at display size below `out`.

    Args:
        results: The record, as `eval.record.build` returns it.
        out: Its folder; image paths in the record are relative to it.

    Returns:
        Path of the page.
    """
    gallery = out / "gallery"
    gallery.mkdir(parents=True, exist_ok=True)
    models = _models(results)
    measured = results["samples"][0]["sides"][models[0]["name"]]["scores"]
    shown = [d for d in dimensions(results) if d.name in measured]
    several = any(sample["member"] for sample in results["samples"])
    pairs = [_pair(sample, models, shown, out, several) for sample in results["samples"]]
    data = {
        "models": models,
        "dimensions": [_dimension(d) for d in shown],
        "pairs": pairs,
        "current": len(models) - 1,
    }
    page = (
        templates()
        .get_template("gallery.html.j2")
        .render(
            title=results["title"],
            verdict=headline(results)["verdict"],
            models=models,
            categories=sorted({s["category"] for s in results["samples"] if s["category"]}),
            dimensions=shown,
            pairs=pairs,
            gone=sum(side["image"] is None for pair in pairs for side in pair["sides"]),
            data=markupsafe.Markup(script_json(data)),
            footer=footer(results),
        )
    )
    with replacing(gallery / "index.html") as beside:
        beside.write_text(page, encoding="utf-8")
    return gallery / "index.html"


def _models(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Names, labels and verdicts; the reference first."""
    verdicts = {comparison["model"]: comparison["verdict"] for comparison in results["comparisons"]}
    two = len(results["models"]) == 2
    found = []
    for number, model in enumerate(results["models"]):
        verdict = verdicts.get(model["name"])
        alarms = [alarm for alarm in verdict["alarms"] if alarm["rings"]] if verdict else []
        found.append(
            {
                "name": model["name"],
                "label": _LABELS[number] if two else model["name"],
                "step": model["step"],
                "line": verdict["line"] if verdict else "",
                "alarms": [
                    {
                        "meaning": alarm["meaning"][:1].upper() + alarm["meaning"][1:],
                        "text": alarm["text"],
                        "severity": alarm.get("severity", "warning"),
                    }
                    for alarm in alarms
                ],
            }
        )
    return found


def _dimension(d: Dimension) -> dict[str, Any]:
    return {
        "name": d.name,
        "label": d.label,
        "role": d.role,
        "digits": d.digits,
        "neutral": d.neutral,
        "extra": d.role == "held_out" and d.name not in _ALWAYS,
    }


def _pair(
    sample: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    shown: Sequence[Dimension],
    out: Path,
    several: bool,
) -> dict[str, Any]:
    """What the page knows of one pair; scores in the order of the dimensions, sides in that of the models."""
    sides, size = [], None
    for model in models:
        side = sample["sides"][model["name"]]
        picture = _picture(out, side["image"], model["name"])
        size = size or picture.pop("size")
        picture.pop("size", None)
        sides.append(
            {
                **picture,
                "scores": [side["scores"][d.name] for d in shown],
                "change": value_of(side, PIXEL_DISTANCE),
                "error": side["error"],
            }
        )
    width, height = size or _SQUARE
    return {
        "id": pair_id(sample),
        "prompt": sample["prompt"],
        "category": sample["category"],
        "member": f"·\u00a0{sample['member'] + 1}" if several else "",
        "width": width,
        "height": height,
        "sides": sides,
    }


def _picture(out: Path, image: str, name: str) -> dict[str, Any]:
    """Addresses of a picture, at display size and in full; None where it is missing or damaged."""
    source = out / image
    target = out / "gallery" / "display" / name / f"{source.stem}.webp"
    try:
        size = write_displayed(source, target)
    except ValueError:
        return {"image": None, "full": None, "size": None}
    with PIL.Image.open(source) as original:
        enlarged = max(original.size) <= DISPLAY_SIDE
    full = target if enlarged else source
    places = {"image": target, "full": full}
    return {key: path.relative_to(out / "gallery").as_posix() for key, path in places.items()} | {
        "size": size
    }
