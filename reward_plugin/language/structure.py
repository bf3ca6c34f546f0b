"""The structure annotation of an image: from what a model wrote to checked objects.

The form is the template of the UniPercept paper (arXiv 2512.21675, section 8.1 and figure 9) and of the
annotation prompt there, which marks base morphology and material class as required and the rest as optional:

    {"SceneType": text, "SceneName": text, "Components": [
        {"ComponentName": text, "DescriptionContent": {
            "PhysicalStructure":      {"BaseMorphology": [text], "Arrangement": [text], "Dynamics": [text]},
            "MaterialRepresentation": {"MaterialClass": [text], "SurfaceProperties": [text]},
            "GeometricComposition":   {"PlanarContour": [text], "VolumetricForm": [text]},
            "SemanticPerception":     {"FunctionalInference": [text], "StyleType": [text]}}}, ...]}

An image without components has one "DescriptionContent" in place of "Components". "N/A" says that there is
nothing. A key that is not of the form is an error: left unseen, it would make the richness smaller.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_plugin.errors import RewardError

#: group -> {its lists: whether they must be there}
GROUPS: Mapping[str, Mapping[str, bool]] = {
    "PhysicalStructure": {"BaseMorphology": True, "Arrangement": False, "Dynamics": False},
    "MaterialRepresentation": {"MaterialClass": True, "SurfaceProperties": False},
    "GeometricComposition": {"PlanarContour": False, "VolumetricForm": False},
    "SemanticPerception": {"FunctionalInference": False, "StyleType": False},
}


class BadStructure(RewardError, ValueError):
    """What a model wrote is not a structure annotation; says where and which rule it breaks."""


@dataclass(frozen=True)
class Component:
    """One part of a scene, or the whole image.

    Attributes:
        name: what it is.
        terms: list name (`BaseMorphology`, ...) -> its entries, trimmed, without "N/A" and repetitions, which
            are told by letters alone, not by case.
    """

    name: str
    terms: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Structure:
    """A checked annotation.

    Attributes:
        scene_type: "Single Scene", "Composite Scene", or what the model called it.
        scene_name: what the scene is.
        components: its parts; the whole image alone where `decomposed` is False.
        decomposed: whether the annotation has components.
    """

    scene_type: str
    scene_name: str
    components: tuple[Component, ...]
    decomposed: bool = True

    def to_json(self) -> dict[str, Any]:
        """The annotation in the paper's form, every list there, nothing where it said "N/A"."""
        described = [
            {group: {name: list(component.terms[name]) for name in lists} for group, lists in GROUPS.items()}
            for component in self.components
        ]
        head = {"SceneType": self.scene_type, "SceneName": self.scene_name}
        if not self.decomposed:
            return {**head, "DescriptionContent": described[0]}
        parts = zip(self.components, described, strict=True)
        return {**head, "Components": [{"ComponentName": c.name, "DescriptionContent": d} for c, d in parts]}


def read_structure(text: str) -> Structure:
    """Find the JSON in what a model wrote and check it.

    Raises:
        BadStructure: no JSON, or not of the form.
    """
    return check_structure(find_json(text))


def find_json(text: str) -> dict[str, Any]:
    """The first JSON object in a text, whatever stands around it: a code fence, a sentence before or after.

    Raises:
        BadStructure: there is none, it is damaged, or it is cut off.
    """
    start = text.find("{")
    if start < 0:
        raise BadStructure("$: the response has no JSON object")
    try:
        value, _ = json.JSONDecoder(object_pairs_hook=_no_repeated_keys).raw_decode(text, start)
    except json.JSONDecodeError as error:
        after = text[error.pos : error.pos + 20]
        ends = not after or error.msg.startswith("Unterminated")
        where = "where the response ends: cut off?" if ends else f"before {after!r}"
        raise BadStructure(f"$: damaged JSON, {error.msg} {where}") from None
    except RecursionError:
        raise BadStructure("$: JSON nested too deeply") from None
    return value


def check_structure(value: object) -> Structure:
    """A parsed annotation as checked objects.

    Raises:
        BadStructure: with the path of the first value that breaks a rule.
    """
    root = _object(value, "$")
    _known(root, "$", ("SceneType", "SceneName", "Components", "DescriptionContent"))
    scene_type, scene_name = (_text(root, key, "$") for key in ("SceneType", "SceneName"))
    if ("Components" in root) == ("DescriptionContent" in root):
        raise BadStructure("$: must have either Components or, for the image as a whole, DescriptionContent")
    if "DescriptionContent" in root:
        whole = Component(scene_name, _terms(root["DescriptionContent"], "$.DescriptionContent"))
        return Structure(scene_type, scene_name, (whole,), decomposed=False)
    listed = root["Components"]
    if not isinstance(listed, list) or not listed:
        raise BadStructure("$.Components: must be a list of at least one component")
    components = []
    for index, entry in enumerate(listed):
        path = f"$.Components[{index}]"
        part = _object(entry, path)
        _known(part, path, ("ComponentName", "DescriptionContent"))
        name = _text(part, "ComponentName", path)
        if "DescriptionContent" not in part:
            raise BadStructure(f"{path}.DescriptionContent: missing; every component has one")
        components.append(Component(name, _terms(part["DescriptionContent"], f"{path}.DescriptionContent")))
    return Structure(scene_type, scene_name, tuple(components))


def _terms(value: object, path: str) -> dict[str, tuple[str, ...]]:
    groups = _object(value, path)
    _known(groups, path, GROUPS)
    terms: dict[str, tuple[str, ...]] = {}
    for group, lists in GROUPS.items():
        here = f"{path}.{group}"
        content = _object(groups.get(group, {}), here)
        _known(content, here, lists)
        for name, required in lists.items():
            if required and name not in content:
                raise BadStructure(f"{here}.{name}: missing; it is required, with N/A where there is nothing")
            terms[name] = _entries(content.get(name, []), f"{here}.{name}")
    return terms


def _entries(value: object, path: str) -> tuple[str, ...]:
    """Entries of a list; a text alone is a list of one."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise BadStructure(f"{path}: must be a list of texts, is {_kind(value)}")
    distinct: dict[str, str] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise BadStructure(f"{path}[{index}]: must be a text, is {_kind(entry)}")
        term = " ".join(entry.split())
        if term and "".join(term.casefold().split()) != "n/a":
            distinct.setdefault(term.casefold(), term)
    return tuple(distinct.values())


def _object(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadStructure(f"{path}: must be an object, is {_kind(value)}")
    return value


def _text(of: Mapping[str, Any], key: str, path: str) -> str:
    if key not in of:
        raise BadStructure(f"{path}.{key}: missing; it must be a text")
    if not isinstance(of[key], str) or not of[key].strip():
        raise BadStructure(f"{path}.{key}: must be a text with something in it, is {_kind(of[key])}")
    return of[key].strip()


def _known(
    of: Mapping[str, Any], path: str, keys: Mapping[str, bool] | Mapping[str, Any] | tuple[str, ...]
) -> None:
    for key in of:
        if key not in keys:
            near = difflib.get_close_matches(key, list(keys), 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(keys)}"
            raise BadStructure(f"{path}.{key}: not a key of the form; {hint}")


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadStructure(f"$: key {key} occurs twice in one object")
        found[key] = value
    return found


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
