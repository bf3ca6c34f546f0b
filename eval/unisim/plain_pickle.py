"""Pickles from outside, read without running anything that is in them.

Two data sets are published as pickles only. Lists, dicts, texts, numbers and arrays of them are read;
whatever else a pickle asks for is refused. NumPy is not let near what the file says: arrays are put together
here.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    import numpy as np

_KINDS = re.compile(r"[iuf][1248]|b1|[US]\d{1,4}|O8?")


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain values holds; arrays as NumPy arrays, arrays of objects as lists.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no pickle, or holds something that is not plain; the message says what.
    """
    with open(path, "rb") as file:
        try:
            return _plain(_Unpickler(file, encoding="latin1").load(), {})
        except OSError:
            raise
        except Exception as error:  # a file from outside makes pickle raise what it likes
            raise ValueError(f"{path}: not a pickle of plain values ({error})") from None


class _Dtype:
    """What a pickle says of a NumPy dtype."""

    def __init__(self, kind: object, *_: object) -> None:
        if not isinstance(kind, str) or not _KINDS.fullmatch(kind):
            raise ValueError(f"an array of {kind!r}; only numbers, texts and objects are read")
        self.kind, self.order = kind, "|"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("the dtype of an array is damaged")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        import numpy as np

        return np.dtype(self.order + self.kind)


class _Array:
    """What a pickle says of a NumPy array."""

    def __init__(self, *_: object) -> None:
        self.value: Any = []

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array is damaged")
        _, shape, kind, fortran, data = state
        self.value = _values(data, kind, shape, "F" if fortran else "C")


class _Buffer(_Array):
    """The same, as pickles of protocol 5 have it."""

    def __init__(self, data: object, kind: object, shape: object, order: object = "C") -> None:
        self.value = _values(data, kind, shape, "F" if order == "F" else "C")


class _Scalar:
    """A NumPy number."""

    def __init__(self, kind: object, data: object = b"") -> None:
        self.value = _values(data, kind, (1,), "C").tolist()[0]


def _values(data: object, kind: object, shape: object, order: Literal["C", "F"]) -> Any:
    import numpy as np

    if not isinstance(kind, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array is damaged")
    if kind.kind.startswith("O"):
        return data if isinstance(data, list) else []
    content = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(content, bytes | bytearray):
        raise ValueError("an array is damaged")
    return np.frombuffer(bytes(content), kind.numpy()).reshape(shape, order=order).copy()


def _encode(text: object, *_: object) -> bytes:
    """How a pickle of Python 3 writes bytes for Python 2."""
    if not isinstance(text, str):
        raise ValueError("bytes are damaged")
    return text.encode("latin1")


def _no_bytes(*arguments: object) -> bytes:
    """How a pickle for Python 2 writes bytes that are empty."""
    if arguments:
        raise ValueError("bytes are damaged")
    return b""


def _never(*_: object) -> NoReturn:
    raise ValueError("an array is damaged")


class _StandIn:
    """What a pickle is given instead of what it names: it can be called, and not be changed."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("it would change the reader")


#: Module and name in a pickle -> what stands for it here.
_KNOWN: dict[tuple[str, str], _StandIn] = {
    **{
        (f"numpy.{core}.{module}", name): _StandIn(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
    ("numpy", "ndarray"): _StandIn(_never),  # handed to _reconstruct
    ("numpy", "dtype"): _StandIn(_Dtype),
    ("_codecs", "encode"): _StandIn(_encode),
    ("__builtin__", "bytes"): _StandIn(_no_bytes),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise ValueError(f"it asks for {module}.{name}, which is not read from a file from outside")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise ValueError("it refers to something outside the file")


def _array_type() -> type:
    import numpy as np

    return np.ndarray


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """The value with arrays and numbers in place of what stood for them; what is shared stays shared."""
    if id(value) in known:
        if known[id(value)] is _Unpickler:
            raise ValueError("it holds itself")
        return known[id(value)]
    known[id(value)] = _Unpickler  # until it is done
    found = value
    if isinstance(value, _Array | _Scalar):
        found = _plain(value.value, known)
    elif isinstance(value, dict):
        found = {_plain(key, known): _plain(entry, known) for key, entry in value.items()}
    elif isinstance(value, list):
        found = [_plain(entry, known) for entry in value]
    elif isinstance(value, tuple):
        found = tuple(_plain(entry, known) for entry in value)
    elif value is not None and not isinstance(value, str | bytes | bytearray | int | float | _array_type()):
        raise ValueError(f"it holds a {type(value).__name__}")
    known[id(value)] = found
    return found
