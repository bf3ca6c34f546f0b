"""Which pictures the command line names, and what is refused before anything is scored."""

import json
import os
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from reward_plugin.errors import ConfigError
from reward_plugin.score.inputs import Item, gather
from reward_plugin.score.reading import Loaded, batches, byte_reader, decoder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.png",
        "a.JPG",
        ".hidden.png",
        "notes.md",
        "deep/c.webp",
        "deep/.cache/d.png",
        "deep/e.tiff",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(*sources: str, recursive: bool = False) -> list[str]:
    return [item.image for item in gather(sources, recursive=recursive)]


def test_folders_give_pictures_by_name_and_files_are_taken_as_they_are(folder: Path):
    assert names(".") == ["./a.JPG", "./b.png"]
    assert names(".", recursive=True) == ["./a.JPG", "./b.png", "./deep/c.webp", "./deep/e.tiff"]
    assert names("deep", "notes.md", "gone.png") == ["deep/c.webp", "deep/e.tiff", "notes.md", "gone.png"]
    assert names("**/*.webp", "*.[pP]*") == ["deep/c.webp", "b.png"]
    assert names("*.md") == ["notes.md"], "a pattern with a suffix takes what it says"
    assert names("**/*") == ["a.JPG", "b.png", "deep/c.webp", "deep/e.tiff"], "and one without takes pictures"


def test_the_contact_sheet_of_an_earlier_run_is_not_scored(folder: Path):
    (folder / "sheet.png").write_bytes(b"")
    for source in (".", "*.png"):
        found = [os.path.normpath(item.image) for item in gather([source], skip=folder / "sheet.png")]
        assert found[-1] == "b.png"
    with pytest.raises(ConfigError, match="nothing to score there"):
        gather(["sheet.png"], skip="sheet.png")


def test_a_file_that_is_reached_twice_is_one_item(folder: Path):
    assert names("b.png", ".", str(folder / "a.JPG"), "*.png") == ["b.png", "./a.JPG"]


def test_a_file_whose_name_looks_like_a_pattern(folder: Path):
    (folder / "x[1].png").write_bytes(b"")
    assert names("x[1].png") == ["x[1].png"]


def test_lists_bring_prompts_and_further_keys_and_are_relative_to_themselves(folder: Path):
    lines = [
        {"image": "c.webp", "prompt": "a cat", "id": 7},
        {"image": "../b.png"},
        {"image": str(folder / "a.JPG"), "prompt": "", "tags": ["x"]},
        {"image": "c.webp", "prompt": "a cat", "id": 8},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(line) for line in lines)
    (folder / "deep" / "list.jsonl").write_text(text, encoding="utf-8")
    assert gather(["deep/list.jsonl"], prompt="anything") == [
        Item("deep/c.webp", "a cat", {"id": 7}),
        Item("deep/../b.png", "anything"),
        Item(str(folder / "a.JPG"), "", {"tags": ["x"]}),
        Item("deep/c.webp", "a cat", {"id": 8}),
    ]
    (folder / "deep" / "paths.txt").write_text("c.webp\n\n e.tiff \n")
    assert names("deep/paths.txt") == ["deep/c.webp", "deep/e.tiff"]
    (folder / "here.txt").write_text("b.png")
    assert names("here.txt") == ["b.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.jsonl", '{"image": "a.png"}\nnonsense', r"list.jsonl:2: not JSON"),
        ("list.jsonl", '{"picture": "a.png"}', r'list.jsonl:1: no "image"'),
        ("list.jsonl", '["a.png"]', r'list.jsonl:1: no "image"'),
        ("list.jsonl", '{"image": "a.png", "prompt": 3}', r'list.jsonl:1: "prompt" is a int'),
        ("list.jsonl", "\n", "list.jsonl: empty"),
        ("list.txt", "\n", "list.txt: empty"),
        ("list.jsonl", "\x00\udcff", "list.jsonl: cannot be read as UTF-8"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(folder: Path, name: str, content: str, message: str):
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        gather([name])


def test_nothing_to_score_says_where(folder: Path):
    os.mkdir("empty")
    with pytest.raises(ConfigError, match=r"empty: no pictures in this folder .*--recursive"):
        gather(["empty"])
    with pytest.raises(ConfigError, match=r"\*.gif: no picture matches"):
        gather(["*.gif"])


def picture(folder: Path, name: str, side: int) -> Item:
    PIL.Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / name)
    return Item(str(folder / name))


def sizes(items: list[Item], **options: int) -> list[list[str]]:
    parts = batches(items, decoder("ignore"), workers=2, **options)
    return [[Path(loaded.item.image).name for loaded in part] for part in parts]


def test_batches_keep_the_order_and_their_bounds(tmp_path: Path):
    items = [picture(tmp_path, f"{i}.png", 4) for i in range(5)]
    assert sizes(items, size=2) == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]
    items[1] = picture(tmp_path, "1.png", 9)
    # 81 pixels do not go with 16 into 90; an unreadable one weighs nothing
    items[2] = Item(str(tmp_path / "gone"))
    assert sizes(items, size=4, max_weight=90) == [["0.png"], ["1.png", "gone"], ["3.png", "4.png"]]


def test_reading_ahead_stops_at_the_weight_of_a_batch(tmp_path: Path):
    read: list[str] = []

    def load(item: Item) -> Loaded:
        read.append(item.image)
        return Loaded(item, b"x", 10)

    parts = batches([Item(str(i)) for i in range(99)], load, size=20, workers=1, max_weight=30)
    assert len(next(parts)) == 3
    time.sleep(0.2)  # the reader has had its time
    assert 4 <= len(read) <= 8
    assert [len(part) for part in parts] == [3] * 32


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "gone.png"])
def test_names_that_no_file_can_have_cost_only_themselves(name: str):
    for load in (decoder("ignore"), byte_reader(100)):
        loaded = load(Item(name))
        assert loaded.picture is None and loaded.error and loaded.error.startswith(name)


def test_bytes_for_a_server_are_the_files_and_too_many_are_refused(tmp_path: Path):
    item = picture(tmp_path, "a.png", 4)
    data = (tmp_path / "a.png").read_bytes()
    assert byte_reader(1000)(item) == Loaded(item, data, len(data))
    errors = [byte_reader(10)(item), byte_reader(10)(Item("gone.png")), byte_reader(10)(Item(str(tmp_path)))]
    assert all(loaded.picture is None for loaded in errors)
    for loaded, reason in zip(errors, ("the server takes 10", "no such file", "not a file"), strict=True):
        assert reason in str(loaded.error)
