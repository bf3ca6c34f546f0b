"""What is checked of a line of a manifest. Each error is a ValueError that names place, key and rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def parsed(line: bytes, where: str, what: str) -> dict[str, Any]:
    """The JSON object of a line; `what` is what the line is, for messages."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); {what} is a JSON object") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: holds a {type(value).__name__}; {what} is a JSON object")
    return value


def check_keys(
    value: Mapping[str, Any], types: Mapping[str, type], needed: Sequence[str], where: str, what: str
) -> None:
    """Whether an object has the keys that it needs, no other, and each of its type; true is no int."""
    for key in value:
        if key not in types:
            raise ValueError(f"{where}: unknown key {key!r}; {what} has {', '.join(types)}")
    for key in needed:
        if key not in value:
            raise ValueError(f"{where}: no key {key!r}; {what} has {', '.join(needed)}")
    for key, found in value.items():
        if type(found) is not types[key]:
            raise ValueError(f"{where}: {key}: {found!r}; it must be of type {types[key].__name__}")


def check_items(values: Sequence[object], kind: type, where: str, key: str) -> None:
    """Whether all entries of a list are of a type."""
    for value in values:
        if type(value) is not kind:
            raise ValueError(f"{where}: {key}: {value!r}; each entry must be of type {kind.__name__}")


def check_name(name: str) -> str:
    """The name, if it is one of a file below the data root."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"image {name!r}; a name must be Unicode") from None
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise ValueError(
            f"image {name!r}; a name is below the data root, with forward slashes and without .."
        )
    return name


def check_hash(name: str, value: object) -> str:
    """The hash of a picture, if it is a SHA-256."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{name!r} has the hash {value!r}; it must be a SHA-256 in 64 hexadecimal digits")
    return value
