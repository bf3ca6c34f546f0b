"""What docs/unisim_datasets.md says of each data set is what the code does."""

import re
from pathlib import Path

import pytest

from eval.unisim.datasets import DATASETS, task_of
from eval.unisim.samples import ATTRIBUTES, TASKS

DOCS = (Path(__file__).parents[3] / "docs" / "unisim_datasets.md").read_text(encoding="utf-8")
FAMILIES = {
    "paa/koniq_brightness": [f"paa/koniq_{name}" for name in ATTRIBUTES],
    "ir/roxford": ["ir/roxford", "ir/rparis"],
    "nafc/hpdv2_2": [f"nafc/hpdv2_{size}" for size in range(2, 9)],
}


def _rows() -> dict[str, list[str]]:
    """First key of a row of the table of data sets -> its cells."""
    rows = re.findall(r"^\| `(\w+/\w+)`(.*)\|$", DOCS, re.MULTILINE)
    return {key: [cell.strip() for cell in rest.split("|")[1:]] for key, rest in rows}


def test_the_table_has_every_data_set() -> None:
    assert [key for first in _rows() for key in FAMILIES.get(first, [first])] == list(DATASETS)


@pytest.mark.parametrize("first", _rows())
def test_a_row_says_what_is_drawn(first: str) -> None:
    group, questions, published, splits = _rows()[first]
    for key in FAMILIES.get(first, [first]):
        dataset = DATASETS[key]
        assert (group, splits) == (dataset.group, ", ".join(dataset.splits))
        assert published.removesuffix(" each") == (
            "–" if dataset.published is None else str(dataset.published)
        )
        if dataset.count is not None:
            assert questions.removesuffix(" each") == str(dataset.count)


def test_the_docs_say_where_each_comes_from() -> None:
    for key, dataset in DATASETS.items():
        assert dataset.title.split("-")[0] in DOCS, key
        assert dataset.download.split(" ")[0].rstrip(";") in DOCS or dataset.homepage in DOCS, key
        assert dataset.licence == "see the homepage" or dataset.licence in DOCS, key


def test_keys_are_of_a_task() -> None:
    assert {task_of(key) for key in DATASETS} == set(TASKS)
    with pytest.raises(ValueError, match="no data set 'kadid'"):
        task_of("kadid")
