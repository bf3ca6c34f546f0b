"""Whatever stands in one row of an index file, the questions of the other rows are as they were."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.unisim.datasets import DATASETS
from eval.unisim.prepare import prepare
from eval.unisim.readers import READERS
from eval.unisim.reading import Ask
from eval.unisim.samples import Sample
from tests.eval.unisim.miniatures import WORLDS

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e400, float("nan"), "", " ", "\ud800", "\0", "../x.png", "/x", [], [None], [[]], [1],
    {}, {"a": []}, "x" * 10_000,
)  # fmt: skip
ODD_CELLS = (
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "1e999",
    "../x.png",
    "/x",
    "[",
    "[1]",
    "{}",
    "x" * 10_000,
    "\u2028",
    "ß;",
)
LISTS = {
    "it_2afc/imagereward": "ImageRewardDB/images/validation/validation_2/validation_2.json",
    "it_2afc/hpdv2": "hpdv2/test.json",
    "nafc/hpdv2_8": "hpdv2/test.json",
    "it_2afc/magicbrush": "MagicBrush/test.json",
    "it_2afc/hq_edit": "HQ-Edit/test.json",
    "text_2afc/hq_edit": "HQ-Edit/test.json",
}
TABLES = {
    "img_2afc/nights": "nights/data.csv",
    "img_2afc/pieapp": "pie_app/labels/test/ref_161_pairwise_labels.csv",
    "iqa/pieapp": "pie_app/labels/test/ref_161_pairwise_labels.csv",
    "it_2afc/agiqa": "agiqa-3k/data.csv",
    "iqa/agiqa": "agiqa-3k/data.csv",
    "text_2afc/cd_coco": "coco-triplets/resources/expert_worker_results_extended.csv",
    "text_2afc/polaris": "polaris/polaris_test.csv",
}


def _changes(row: dict[str, Any]) -> Iterator[Any]:
    """The row with one value replaced, with one removed, and something else in its place."""
    for key in row:
        yield {other: value for other, value in row.items() if other != key}
        for value in ODD_VALUES:
            yield {**row, key: value}
    yield from ODD_VALUES


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def _samples(key: str, root: Path) -> list[Sample]:
    """All questions of a data set, without hashing its pictures."""
    drawn = READERS[key](Ask(key, root, DATASETS[key].splits[0], 0, None))
    assert all(row.where.encode() and row.reason.encode() for row in drawn.left_out)
    return drawn.samples


@pytest.mark.parametrize("key", LISTS)
def test_an_odd_entry_of_a_list_costs_nothing_else(key: str, tmp_path: Path) -> None:
    WORLDS[key](tmp_path)
    path = tmp_path / LISTS[key]
    entries = json.loads(path.read_text())
    if key == "it_2afc/imagereward":  # where the rows of a prompt make one question
        entries = [entries[0], *entries[4:]]
    path.write_text(json.dumps([None, *entries[1:]]))
    others = _samples(key, tmp_path)
    assert others
    for entry in _changes(entries[0]):
        path.write_text(json.dumps([entry, *entries[1:]]))
        kept = _samples(key, tmp_path)
        assert kept[len(kept) - len(others) :] == others


@pytest.mark.parametrize("key", TABLES)
def test_an_odd_cell_of_a_table_costs_nothing_else(key: str, tmp_path: Path) -> None:
    WORLDS[key](tmp_path)
    path = tmp_path / TABLES[key]
    with open(path, encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    everything = _samples(key, tmp_path)
    write_table(path, columns, [["one cell"], *rows[1:]])
    others = [sample for sample in _samples(key, tmp_path) if sample in everything]
    assert len(others) >= len(everything) // 3
    for place in range(len(columns)):
        for cell in ODD_CELLS:
            write_table(path, columns, [[*rows[0][:place], cell, *rows[0][place + 1 :]], *rows[1:]])
            kept = _samples(key, tmp_path)
            assert [sample for sample in kept if sample in others] == others


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xfe", b"[" * 100_000, b'"' * 3, b'a,b\n"', b"null"])
@pytest.mark.parametrize("key", [*LISTS, *TABLES])
def test_another_file_is_an_error_with_its_name(key: str, content: bytes, tmp_path: Path) -> None:
    WORLDS[key](tmp_path)
    path = tmp_path / {**LISTS, **TABLES}[key]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name if key != "text_2afc/polaris" else "polaris"):
        prepare(key, tmp_path, tmp_path / "out")
