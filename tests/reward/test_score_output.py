"""Files of rows: killed at any point and gone on with, they are those of a run that was left alone."""

import contextlib
import csv
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from reward_plugin.__main__ import main
from reward_plugin.errors import ConfigError
from reward_plugin.score.output import open_rows

ROOT = Path(__file__).parents[2]
PIXELS = ["--scorers", '[{"name": "pixels"}]']
COLUMNS = ["image", "prompt", "id", "iaa", "error", "scored_by"]
FORMATS = [
    ".jsonl",
    ".csv",
    pytest.param(
        ".parquet", marks=pytest.mark.skipif("not __import__('importlib').util.find_spec('pyarrow')")
    ),
]


def row(name: str, iaa: float | None = 1.5, **more: Any) -> dict[str, Any]:
    return {"image": name, "iaa": iaa, "error": None if iaa else "truncated", "scored_by": "a@1", **more}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a finished file as other tools read them; empty fields of a table are left out."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream))
        numbers = [{k: _number(v) for k, v in row.items()} for row in rows]
        return [{k: v for k, v in row.items() if v != ""} for row in numbers]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_survive_the_way_to_a_file_and_back(tmp_path: Path, suffix: str):
    path = tmp_path / f"scores{suffix}"
    awkward = [
        row('ä,"b"\'.png', prompt='two\nlines, "quoted"', id=[1, {"x": None}]),
        row("b.png", None, id="7"),
        row("c.png", 0.1, prompt="=1+1", id=7),
    ]
    file = open_rows(path, "a@1")
    assert file.rows == []
    file.start(COLUMNS)
    file.append(awkward[:2])
    file.append(awkward[2:])
    file.close()
    assert [r["image"] for r in read(path)] == [r["image"] for r in awkward]
    assert [r.get("iaa") for r in read(path)] == [1.5, None, 0.1]
    again = open_rows(path, "a@1")
    for was, now in zip(awkward, again.rows, strict=True):
        for key in ("image", "prompt", "error", "scored_by"):
            assert now.get(key) == was.get(key)
    again.keep([r for r in again.rows if not r["error"]])
    again.start(COLUMNS)
    again.append([row("d.png", 2.0)])
    again.close()
    assert [r["image"] for r in read(path)] == [awkward[0]["image"], "c.png", "d.png"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_scorers_are_never_mixed_in_a_file(tmp_path: Path, suffix: str):
    path = tmp_path / f"scores{suffix}"
    file = open_rows(path, "a@1")
    file.start(COLUMNS)
    file.append([row("a.png")])
    file.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"holds scores by 'a@1', and this run would add some by 'a@2'"):
        open_rows(path, "a@2")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.xlsx", None, "its suffix must be one of .jsonl, .csv, .parquet"),
        ("nowhere/scores.csv", None, "there is no folder"),
        ("list.jsonl", '{"image": "a.png"}\n', "list.jsonl:1: not a row of this command"),
        ("list.jsonl", '{"image": "a.png"}', "list.jsonl:1: not a row of this command"),
        ("notes.jsonl", "to do: buy milk", "ends in something else than a row"),
        ("table.csv", "name,age\nx,3\n", "not a table of this command"),
        ("table.csv", "name", "not a table of this command"),
    ],
)
def test_files_of_others_are_left_alone(tmp_path: Path, name: str, content: str | None, message: str):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        open_rows(path, "a@1")
    assert content is None or path.read_text() == content


def test_two_runs_do_not_write_one_file(tmp_path: Path):
    first = open_rows(tmp_path / "a.jsonl", "a@1")
    with pytest.raises(ConfigError, match="another run is writing it"):
        open_rows(tmp_path / "a.jsonl", "a@1")
    first.close()
    open_rows(tmp_path / "a.jsonl", "a@1").close()
    assert not (tmp_path / "a.jsonl").exists(), "a file without a row does not stay"


def test_a_table_with_other_columns_is_refused(tmp_path: Path):
    file = open_rows(tmp_path / "a.csv", "a@1")
    file.start(COLUMNS)
    file.append([row("a.png")])
    file.close()
    with pytest.raises(ConfigError, match=r"has the columns image, prompt, id, .* give another --out"):
        open_rows(tmp_path / "a.csv", "a@1").start([*COLUMNS, "more"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough of them, and slow enough, to be killed in the middle; one cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for i in range(30):
        PIL.Image.fromarray(noise.integers(0, 256, (160, 160 + i, 3), np.uint8)).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"junk")
    return folder


def killed(pictures: Path, out: Path, how: signal.Signals) -> tuple[int, str]:
    """Start to score, and stop it once a few rows are there; returns the exit code and standard error."""
    command = [sys.executable, "-m", "reward_plugin", "score", str(pictures), *PIXELS, "--out", str(out)]
    grows = out if out.suffix != ".parquet" else out.with_name(out.name + ".journal.jsonl")
    process = subprocess.Popen(
        [*command, "--batch_size", "1", "--workers", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 150
    while not grows.is_file() or grows.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline and process.poll() is None, "no rows came"
        time.sleep(0.005)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_killed_run_goes_on_and_loses_nothing(
    pictures: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
):
    out, whole = tmp_path / f"scores{suffix}", tmp_path / f"whole{suffix}"
    code, _ = killed(pictures, out, signal.SIGKILL)
    grown = out if suffix != ".parquet" else out.with_name(out.name + ".journal.jsonl")
    with grown.open("ab") as stream:
        stream.write(b'{"image": "half a ro' if suffix != ".csv" else b'"half a ro')
    there = grown.read_bytes().count(b"\n") - (suffix == ".csv")
    assert code == -signal.SIGKILL and 3 <= there < 30
    assert main(["score", str(pictures), *PIXELS, "--out", str(out)]) == 3
    assert f"{there} of 30 are in {out} already" in capsys.readouterr().err
    assert main(["score", str(pictures), *PIXELS, "--out", str(whole)]) == 3
    assert read(out) == read(whole)
    assert len(read(out)) == 30 and sum("error" in r for r in read(out)) == 1
    before = out.read_bytes()
    assert main(["score", str(pictures), *PIXELS, "--out", str(out)]) == 3
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_an_interrupt_leaves_a_file_and_says_how_to_go_on(pictures: Path, tmp_path: Path, suffix: str):
    out = tmp_path / f"scores{suffix}"
    code, error = killed(pictures, out, signal.SIGINT)
    assert code == 130 and "Traceback" not in error, error
    assert f"of 30 pictures are scored; they are in {out}, and the same command goes on" in error
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    assert 3 <= len(read(out)) < 30


def test_a_terminal_shows_progress_even_where_it_has_no_size(pictures: Path, tmp_path: Path):
    ours, theirs = pty.openpty()  # of 0 columns and 0 lines, as in some containers
    command = [sys.executable, "-m", "reward_plugin", "score", str(pictures), *PIXELS]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "a.csv")], cwd=ROOT, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait(60) == 3
    assert b"loading pixels" in shown and b"30/30" in shown and b"1 failed" in shown
