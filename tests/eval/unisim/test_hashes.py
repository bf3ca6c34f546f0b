"""Pictures are hashed once per file; what is missing, broken or changed is named and stops nothing."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from eval.unisim.hashes import check_pictures, hash_pictures
from eval.unisim.manifest import Manifest
from eval.unisim.samples import Sample


def _picture(path: Path, colour: tuple[int, int, int]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_broken_is_named_and_the_rest_hashed(tmp_path: Path) -> None:
    good = _picture(tmp_path / "a" / "good.png", (1, 2, 3))
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("hello")
    found = hash_pictures(tmp_path, ["a/good.png", "cut.jpg", "text.png", "gone.png", "a", "a/good.png"])
    assert found.hashes == {"a/good.png": good}
    assert found.problems["gone.png"] == "missing" and found.problems["a"] == "is a directory"
    assert "damaged" in found.problems["cut.jpg"] and "damaged" in found.problems["text.png"]


def test_a_file_is_read_again_only_where_its_size_or_time_changed(tmp_path: Path) -> None:
    cache = tmp_path / "out" / "cache.json"
    names = ["1.bmp", "2.bmp"]
    old = {name: _picture(tmp_path / name, (number, 0, 0)) for number, name in enumerate(names)}
    assert hash_pictures(tmp_path, names, cache=cache).hashes == old
    time = (tmp_path / "2.bmp").stat().st_mtime_ns
    new = _picture(tmp_path / "2.bmp", (9, 9, 9))  # of the same size
    os.utime(tmp_path / "2.bmp", ns=(time, time))
    assert hash_pictures(tmp_path, names, cache=cache).hashes == old  # so it was not read
    os.utime(tmp_path / "2.bmp", ns=(time, time + 1))
    assert hash_pictures(tmp_path, names, cache=cache).hashes == {**old, "2.bmp": new}
    (tmp_path / "1.bmp").unlink()
    assert hash_pictures(tmp_path, names, cache=cache).problems == {"1.bmp": "missing"}
    cache.write_text("{damaged")
    assert hash_pictures(tmp_path, names[1:], cache=cache).hashes == {"2.bmp": new}
    assert len(json.loads(cache.read_text())) == 1


def test_an_interruption_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        _picture(tmp_path / name, (number, 0, 0))
    cache = tmp_path / "out" / "cache.json"
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "3.png":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "read_bytes", read)
        hash_pictures(tmp_path, names, cache=cache, threads=1)
    assert sorted(Path(path).name for path in json.loads(cache.read_text())) == names[:3]


def test_pictures_that_changed_since_the_manifest_was_made_are_named(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        _picture(tmp_path / name, (1, 2, 3))
    found = hash_pictures(tmp_path, ["1.png", "2.png", "3.png"])
    samples = (
        Sample("0", "iqa", ("1.png", "2.png"), label=0),
        Sample("1", "iqa", ("3.png", "1.png"), label=0),
    )
    manifest = Manifest("koniq", "iqa", "test", 0, samples, hashes=found.hashes)
    assert check_pictures(manifest, tmp_path) == {}
    (tmp_path / "2.png").unlink()
    _picture(tmp_path / "3.png", (3, 2, 1))
    problems = check_pictures(manifest, tmp_path)
    assert problems["2.png"] == "missing" and problems["3.png"].startswith("changed: SHA-256 ")
    assert set(problems) == {"2.png", "3.png"}
