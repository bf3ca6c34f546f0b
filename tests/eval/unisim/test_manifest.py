"""A manifest is frozen: the same bytes for the same questions; a fault of a file is named with its line."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.unisim.manifest import NAMED, LeftOut, Manifest, bounded, read_manifest, write_manifest
from eval.unisim.samples import Sample

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
PAIRS = Manifest(
    "hpdv2",
    "it_2afc",
    "test",
    0,
    (
        Sample("0", "it_2afc", ("h/1.png", "h/2.png"), ("a “cat”\u2028\u2029\x85\x0b\n猫",), 1),
        Sample("1", "it_2afc", ("h/2.png", "h/3.png"), ("a dog",), 0),
    ),
    hashes={"h/1.png": A, "h/2.png": B, "h/3.png": C},
    left_out=(LeftOut("row 3", "tie"),),
    left_out_count=4,
    notes=("Drawn here.",),
    count=5,
)
RANKING = Manifest(
    "roxford5k",
    "ir",
    "test",
    0,
    (Sample("q", "ir", ("q.jpg",), easy=(2,), hard=(0,), junk=(1,)),),
    gallery=("x.jpg", "y.jpg", "z.jpg"),
    hashes={"q.jpg": A, "x.jpg": A, "y.jpg": B, "z.jpg": C},
)
QUALITY = Manifest(
    "koniq",
    "paa",
    "test",
    3,
    (Sample("0", "paa", ("1.jpg", "2.jpg"), label=0, attribute="sharpness"),),
    hashes={"1.jpg": A, "2.jpg": B},
)


@pytest.mark.parametrize("manifest", [PAIRS, RANKING, QUALITY], ids=lambda manifest: manifest.task)
def test_what_is_written_is_read(manifest: Manifest, tmp_path: Path) -> None:
    written = write_manifest(manifest, tmp_path / "new" / "m.jsonl")
    read = read_manifest(tmp_path / "new" / "m.jsonl")
    assert read == manifest
    content = (tmp_path / "new" / "m.jsonl").read_bytes()
    assert read.digest == written.digest == hashlib.sha256(content).hexdigest()
    assert len(content.decode().splitlines()) == 1 + len(manifest.samples)
    write_manifest(read, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == content


def test_a_manifest_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(PAIRS, path)
    content = path.read_bytes()
    sample = replace(PAIRS.samples[0], texts=("\ud800",))
    with pytest.raises(ValueError, match="not Unicode"):
        write_manifest(replace(PAIRS, samples=(sample,)), path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def _changed(line: int, **keys: object) -> list[dict[str, object]]:
    """The lines of `PAIRS` (RANKING with `gallery`) with keys of one set; None removes a key."""
    manifest = RANKING if "gallery_sha256" in keys or "easy" in keys else PAIRS
    path = Path(keys.pop("path"))  # type: ignore[arg-type]
    write_manifest(manifest, path)
    lines = [json.loads(text) for text in path.read_text().split("\n")[:-1]]
    for key, value in keys.items():
        lines[line - 1].pop(key, None)
        if value is not None:
            lines[line - 1][key] = value
    return lines


@pytest.mark.parametrize(
    ("line", "keys", "message"),
    [
        (1, {"format": "other"}, ":1: format 'other'"),
        (1, {"version": 2}, ":1: format .*version 2"),
        (1, {"seed": None}, ":1: no key 'seed'"),
        (1, {"seed": True}, ":1: seed: True; it must be of type int"),
        (1, {"surprise": 1}, ":1: unknown key 'surprise'"),
        (1, {"samples": 3}, ":1: samples 3, but 2 questions follow"),
        (1, {"left_out": [{"where": "x"}]}, ":1: left_out: "),
        (1, {"left_out_count": 0}, "left_out_count 0"),
        (1, {"task": "colour"}, "colour"),
        (1, {"gallery_sha256": [A, B]}, ":1: gallery_sha256 has 2 entries for 3 pictures"),
        (2, {"id": None}, ":2: no key 'id'"),
        (2, {"mood": "x"}, ":2: unknown key 'mood'"),
        (2, {"label": 2}, ":2: 0: label 2"),
        (2, {"label": "1"}, ":2: label: '1'; it must be of type int"),
        (2, {"images": ["h/1.png"]}, ":2: sha256 has 2 entries for 1 pictures"),
        (2, {"images": ["h/1.png", 3]}, ":2: images: 3; each entry must be of type str"),
        (2, {"images": ["h/1.png", "../2.png"]}, ":2: sha256: image '../2.png'"),
        (2, {"images": ["h/1.png", "/2.png"]}, ":2: sha256: image '/2.png'"),
        (2, {"sha256": [A, "B" * 64]}, ":2: sha256: 'h/2.png' has the hash"),
        (2, {"texts": []}, ":2: 0: it_2afc takes"),
        (3, {"id": "0"}, "line 3: id '0': empty or there before"),
        (3, {"sha256": [A, C]}, ":3: sha256: 'h/2.png' has another hash in an earlier line"),
        (2, {"easy": [3]}, "line 2: q: index 3"),
        (2, {"easy": [0]}, "line 2: q: easy, hard and junk name a picture twice"),
    ],
)
def test_a_fault_is_named_with_its_line(
    line: int, keys: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    lines = _changed(line, path=path, **keys)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: format None"),
        (b"[]\n", ":1: holds a list"),
        (b"{\n", ":1: not JSON"),
        (b"\xff\n", ":1: not JSON"),
        (b'{"format": "unisim', ":1: cut off"),
    ],
)
def test_what_is_no_manifest_says_so(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_a_manifest_holds_together() -> None:
    with pytest.raises(ValueError, match="no question"):
        replace(PAIRS, samples=())
    with pytest.raises(ValueError, match=r"h/3\.png' has the hash None"):
        replace(PAIRS, hashes={"h/1.png": A, "h/2.png": B})
    with pytest.raises(ValueError, match="a gallery of 0 pictures"):
        replace(RANKING, gallery=())
    with pytest.raises(ValueError, match=r"'x\.jpg' twice"):
        replace(RANKING, gallery=("x.jpg", "y.jpg", "x.jpg"))
    with pytest.raises(ValueError, match="one task"):
        replace(PAIRS, samples=QUALITY.samples, hashes=QUALITY.hashes)


def test_many_left_out_are_counted_and_some_named() -> None:
    rows = [LeftOut(f"row {number}", "tie") for number in range(NAMED + 5)]
    named, count = bounded(rows)
    assert count == NAMED + 5 and len(named) == NAMED
    assert named[: NAMED // 2] == tuple(rows[: NAMED // 2]) and named[-1] == rows[-1]
    assert bounded(rows[:3]) == (tuple(rows[:3]), 3)
