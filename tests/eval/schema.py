"""As much of JSON Schema as `eval/results.schema.json` uses, to check records by it."""

import json
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).resolve().parents[2] / "eval" / "results.schema.json"
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    *("$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "items"),
    *("properties", "required", "additionalProperties", "minItems", "maxItems", "minimum", "maximum"),
}


def complaints(value: Any) -> list[str]:
    """What in a record does not fit the schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return list(_check(value, schema, schema, "record"))


def _check(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str) -> list[str]:
    assert schema.keys() <= KNOWN, f"{schema.keys() - KNOWN} is not checked here"
    if "$ref" in schema:
        return _check(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, where)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    found = []
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"{where}: {value!r} is no {' or '.join(kinds)}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{where}: {name!r} is missing" for name in schema.get("required", []) if name not in value]
        rest = schema.get("additionalProperties", {})
        for name, child in value.items():
            found += _check(child, schema.get("properties", {}).get(name, rest), root, f"{where}.{name}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where}: {len(value)} entries")
        for i, child in enumerate(value):
            found += _check(child, schema.get("items", {}), root, f"{where}[{i}]")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{where}: {value} is out of range")
    return found


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])
