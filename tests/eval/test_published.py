"""Published figures beside measured ones, and the configuration of UniPercept's Table 5 at pocket size."""

from pathlib import Path

import pytest
import yaml

from eval.__main__ import main
from eval.published import as_text, read_published, table
from eval.results import read

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "eval" / "unipercept_table5.yaml"


def test_the_figures_of_table_5_are_the_papers():
    published = read_published("unipercept_table5")
    assert "2512.21675" in published["source"]
    columns = list(published["columns"])
    assert columns == ["PickScore", "HPSv3", "DeQA", "LAION", "ArtiMuse", "IAA", "IQA", "ISTA"]
    assert published["rows"]["FLUX.1-dev"][columns.index("IAA")] == 65.18
    assert published["rows"]["ISTA"][columns.index("ISTA")] == 59.61
    # Each dimension rises the most where it alone is the reward, or is at least as good as with all.
    for name in ("IAA", "ISTA"):
        column = [row[columns.index(name)] for row in published["rows"].values()]
        assert max(column) == published["rows"][name][columns.index(name)]
    models = [entry["name"] for entry in yaml.safe_load(CONFIG.read_text())["models"]]
    assert models == list(published["rows"])


@pytest.mark.timeout(180)
def test_the_configuration_runs_at_pocket_size(
    flux: Path, make_lora, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    values = yaml.safe_load(CONFIG.read_text())
    folder = tmp_path / "prompts"
    folder.mkdir()
    for number, text in enumerate(["a red apple on the grass", "a blue boat under the sky"]):
        (folder / f"{number}.txt").write_text(text)
    for number, entry in enumerate(values["models"][1:], start=1):
        entry["lora"] = str(make_lora(0.2 * number))
    rater = {"name": "unipercept", "path": str(ROOT / "tests/data/unipercept/checkpoint")}
    values |= {"model": str(flux), "prompts": str(folder), "members": 1, "dtype": "float32"}
    values |= {"out": str(tmp_path / "out"), "bootstrap": {"resamples": 100}}
    values["sampling"] = {"num_steps": 1, "height": 32, "width": 32, "max_sequence_length": 32}
    values["reward"] = {"weights": values["reward"]["weights"], "scorers": [rater, {"name": "pixels"}]}
    file = tmp_path / "table5.yaml"
    file.write_text(yaml.safe_dump(values))
    assert main(["compare", "--config", str(file)]) == 0

    record = read(tmp_path / "out" / "results.json")
    assert [model["name"] for model in record["models"]] == ["FLUX.1-dev", "IAA", "IQA", "ISTA", "All"]
    mean = record["models"][2]["distribution"]["ista"]["mean"]
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("IQA "))
    assert line.split()[1:4] == ["22.63", "/", "–"] and line.endswith(f"52.34 / {mean:.2f}")
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert f"| 52.34 / {mean:.2f} |" in markdown and "2512.21675" in markdown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Published figures beside these" in page and f"<b>{mean:.2f}</b>" in page


def record_of(published: dict) -> dict:
    models = [{"name": "base", "distribution": {"iaa": {"mean": 61.234}}}]
    return {"models": models, "published": published}


def test_rows_that_only_one_side_has_are_shown_too():
    published = {
        "source": "S",
        "about": "",
        "columns": {"IAA": "iaa", "X": None},
        "rows": {"other": [1.0, 2.0]},
    }
    found = table(record_of(published))
    assert found is not None and [row["name"] for row in found["rows"]] == ["base", "other"]
    assert found["rows"][0]["cells"] == [
        {"published": None, "measured": 61.234},
        {"published": None, "measured": None},
    ]
    text = as_text(record_of(published)).splitlines()
    assert text[2].split() == ["base", "–", "/", "61.23", "–", "/", "–"]
    assert as_text({"models": [], "published": None}) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file and none of those shipped: unipercept_table5"),
        ("a: [", "is not valid YAML"),
        ("source: x\ncolumns: {A: a}\n", "needs the keys source, columns and rows"),
        ("source: x\ncolumns: {A: a}\nrows: {r: [1, 2]}\n", "r has 2 figures for 1 columns"),
    ],
)
def test_files_that_hold_no_figures_are_refused(tmp_path: Path, content: str | None, message: str):
    file = tmp_path / "published.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_published(str(file))
