"""A store of embeddings: what was added is there, whatever happened to the file since."""

from pathlib import Path

import numpy as np
import pytest

from eval.unisim.store import HEADER, VectorStore, text_key


def vectors(count: int, seed: int = 0, size: int = 6) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, size))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def keys(count: int) -> list[str]:
    return [text_key(str(i)) for i in range(count)]


def test_what_was_added_is_there_in_this_run_and_in_the_next(tmp_path: Path):
    path, names, made = tmp_path / "deep" / "e.bin", keys(5), vectors(5)
    with VectorStore(path) as store:
        assert store.size is None and names[0] not in store
        store.add(names[:2], made[:2])
        store.add(names[2:4], made[2:4])
        assert np.array_equal(store.get([names[3], names[0]]), made[[3, 0]])
        assert np.isnan(store.get([names[4]])).all()
    with VectorStore(path) as store:
        assert (len(store), store.size) == (4, 6) and names[3] in store and names[4] not in store
        store.add(names[4:], made[4:])
        assert np.array_equal(store.get(names), made)


@pytest.mark.parametrize("cut", [1, 40, 55])
def test_a_record_that_was_cut_off_is_not_there_and_others_are(cut: int, tmp_path: Path):
    path, names, made = tmp_path / "e.bin", keys(3), vectors(3)
    with VectorStore(path) as store:
        store.add(names, made)
    path.write_bytes(path.read_bytes()[:-cut])
    with VectorStore(path) as store:
        assert [name in store for name in names] == [True, True, False]
        store.add(names[2:], made[2:])
    with VectorStore(path) as store:
        assert np.array_equal(store.get(names), made)


def test_blocks_that_never_reached_the_disk_are_not_taken_for_vectors(tmp_path: Path):
    path, names, made = tmp_path / "e.bin", keys(3), vectors(3)
    with VectorStore(path) as store:
        store.add(names, made)
    data = bytearray(path.read_bytes())
    record = (len(data) - HEADER) // 3
    data[HEADER + record + 32 : HEADER + 2 * record] = bytes(record - 32)
    path.write_bytes(data)
    with VectorStore(path) as store:
        assert [name in store for name in names] == [True, False, True]
        assert np.array_equal(store.get(names)[[0, 2]], made[[0, 2]])


def test_a_file_whose_first_line_was_cut_off_begins_anew(tmp_path: Path):
    path = tmp_path / "e.bin"
    with VectorStore(path) as store:
        store.add(keys(1), vectors(1))
    path.write_bytes(path.read_bytes()[:20])
    with VectorStore(path) as store:
        assert len(store) == 0
        store.add(keys(1), vectors(1))
    with VectorStore(path) as store:
        assert len(store) == 1


def test_what_is_no_vector_is_refused(tmp_path: Path):
    with VectorStore(tmp_path / "e.bin") as store:
        store.add(keys(1), vectors(1))
        for bad, rule in ((vectors(1, size=7), "vectors of 6"), (2 * vectors(1), "must be 1")):
            with pytest.raises(ValueError, match=rule):
                store.add(keys(1), bad)
        with pytest.raises(ValueError, match="must be 1"):
            store.add(keys(1), np.full((1, 6), np.nan, dtype=np.float32))
        store.add([], np.zeros((0, 6)))
        assert len(store) == 1


def test_another_file_is_left_as_it_is(tmp_path: Path):
    path = tmp_path / "e.bin"
    path.write_text("somebody's notes")
    with pytest.raises(ValueError, match="no file of embeddings"):
        VectorStore(path)
    assert path.read_text() == "somebody's notes"


def test_one_run_at_a_time_has_it_open_and_an_empty_one_does_not_stay(tmp_path: Path):
    path = tmp_path / "e.bin"
    with VectorStore(path), pytest.raises(ValueError, match="another run is writing it"):
        VectorStore(path)
    assert not path.exists()


def test_a_text_has_another_key_than_a_picture_of_the_same_bytes():
    import hashlib

    assert text_key("a") != hashlib.sha256(b"a").hexdigest()
    assert text_key("a\ud800") != text_key("a")
