"""A pickle from outside gives plain values, or an error; nothing in it is run."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.unisim import plain_pickle
from eval.unisim.plain_pickle import read_plain_pickle
from tests.eval.unisim.worlds_ooo_ir import batch_of_python2


def _read(tmp_path: Path, content: bytes) -> Any:
    (tmp_path / "file.pkl").write_bytes(content)
    return read_plain_pickle(tmp_path / "file.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_are_read(protocol: int, tmp_path: Path) -> None:
    shared = [1, 2.5, "猫", None, True, b"raw", b""]
    value = {
        "list": shared,
        "again": (shared, {"deep": [shared]}),
        "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.array([1, 2**40], dtype=">i8"),
        "texts": np.array(["a", "bcd"]),
        "objects": np.array(["a", [1]], dtype=object),
        "scalar": np.float64(0.5),
        "empty": np.array([], dtype=np.int64),
    }
    found = _read(tmp_path, pickle.dumps(value, protocol=protocol))
    assert found["list"] == shared and found["again"] == (shared, {"deep": [shared]})
    for key in ("bytes", "columns", "big", "texts", "empty"):
        expected = value[key]
        np.testing.assert_array_equal(found[key], expected)
        assert found[key].dtype == expected.dtype  # type: ignore[attr-defined]
    assert found["objects"] == ["a", [1]] and found["scalar"] == 0.5 and type(found["scalar"]) is float


def test_arrays_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    data = bytes(range(256)) * 24
    found = _read(tmp_path, batch_of_python2(data, [3, 7]))
    assert found["coarse_labels"] == [3, 7] and found["data"].tobytes() == data
    assert found["data"].shape == (2, 3072)


class _Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.how = call, arguments

    def __reduce__(self) -> Any:
        return self.how


def _array_with(order: str, kind: str) -> bytes:
    return f"cnumpy\ndtype\n(V{kind}\nI0\nI1\ntR(I3\nV{order}\nNNNI-1\nI-1\nI0\ntb.".encode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("nested", [False, True])
def test_what_would_run_is_refused_and_does_not_run(protocol: int, nested: bool, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    attack: Any = _Runs(os.system, f"touch {target}")
    if nested:
        attack = {"imlist": np.array([attack], dtype=object), "qimlist": [attack]}
    with pytest.raises(ValueError, match=r"posix\.system|nt\.system"):
        _read(tmp_path, pickle.dumps(attack, protocol=protocol))
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(_Runs(eval, "1+1")), "builtins.eval"),
        (pickle.dumps(_Runs(bytes, 10**10), protocol=2), "damaged"),
        (pickle.dumps(Path("x")), "pathlib"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "builtins.exec"),
        (b"cnumpy\nload\n(Vx\ntR.", "numpy.load"),
        (b"cnumpy\nndarray\n(I1000000\ntR.", "damaged"),
        (_array_with("|", "V8"), "only numbers, texts and objects"),
        (_array_with("!", "i8"), "damaged"),
        (b"cnumpy\ndtype\n.", "it holds a"),
        (b"Pelsewhere\n.", "outside the file"),
        (b"cnumpy\nndarray\nN}(Vx\nI1\nu\x86b.", "change the reader"),
        (b"\x80\x04\x82\x01.", "unregistered extension"),
        (b"(lp0\ng0\na.", "it holds itself"),
        (b"not a pickle", "not a pickle"),
        (b"", "not a pickle"),
        (pickle.dumps({1, 2}), "set"),
    ],
)
def test_what_is_not_plain_is_an_error(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _read(tmp_path, content)
    assert "file.pkl: not a pickle of plain values" in str(caught.value)


def test_a_small_file_cannot_grow_without_end(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]  # 2^60 lists, if they were copied
    found = _read(tmp_path, pickle.dumps(value))
    assert found[0] is found[1]


def test_an_array_of_another_size_than_its_data_is_an_error(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(6, dtype=np.uint8), protocol=2).replace(b"K\x06\x85", b"K\x09\x85")
    with pytest.raises(ValueError, match="cannot reshape"):
        _read(tmp_path, content)


def test_nothing_but_stand_ins_is_handed_to_a_pickle() -> None:
    assert all(type(value) is plain_pickle._StandIn for value in plain_pickle._KNOWN.values())
