"""The command as a whole on real pictures: rows, summary, filter, list, contact sheet, retry."""

import csv
import importlib.util
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from reward_plugin.__main__ import main
from reward_plugin.score.identity import describe, fingerprint, scored_by
from reward_plugin.score.sheet import best_and_worst, draw_sheet
from reward_plugin.score.show import card, shorten
from reward_plugin.score.summary import bar_chart, distribution, summary_text
from reward_plugin.scorers import SCORERS
from reward_plugin.types import ImageLike, ScoreTable
from tests.reward.helpers import Broken, PromptLength

PIXELS = ["--scorers", '[{"name": "pixels"}]']


class Terminal(io.StringIO):
    """A standard output that a person looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Saturation 0, 0.25, 0.5, 0.75, 1, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(5):
        colour = (200, 200 - 50 * i, 200 - 50 * i)
        PIL.Image.fromarray(np.full((30, 20, 3), colour, np.uint8)).save(f"in/s{i}.png")
    (tmp_path / "in" / "t.png").write_bytes(b"")
    return tmp_path


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_pipe_gets_json_lines_and_a_filter_thins_them(pictures: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["score", "in", *PIXELS, "--filter", "0.2 < saturation < 0.6", "--batch_size", "2"]) == 3
    captured = capsys.readouterr()
    printed = [json.loads(line) for line in captured.out.splitlines()]
    assert [(row["image"], row["saturation"]) for row in printed] == [("in/s1.png", 0.25), ("in/s2.png", 0.5)]
    assert list(printed[0]) == [
        "image", "colourfulness", "saturation", "sharpness", "grid_energy", "error", "scored_by"
    ]  # fmt: skip
    assert "1 of 6 images have no complete score" in captured.err and "2 of 6 pass" in captured.err


def test_a_terminal_gets_an_aligned_table_and_a_summary(
    pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    assert main(["score", "in", *PIXELS]) == 3
    lines = screen.getvalue().splitlines()
    assert lines[0].split() == ["colourfulness", "saturation", "sharpness", "grid_energy"]
    ends = {
        line.index(value) + len(value) for line, value in zip(lines[1:], ("0.0000", "0.2500"), strict=False)
    }
    assert ends == {lines[0].index("saturation") + len("saturation")}
    assert lines[6].split() == ["in/t.png", "-", "-", "-", "-", "0", "bytes"]
    summary = capsys.readouterr().err
    assert (
        "saturation" in summary and "1 of 6 pictures have no complete score:\n  in/t.png: 0 bytes" in summary
    )


def test_one_picture_gets_a_card(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    assert main(["score", "in/s2.png", *PIXELS, "--prompt", "a red wall"]) == 0
    lines = screen.getvalue().splitlines()
    assert lines[:2] == ["in/s2.png", "  prompt: a red wall"]
    assert lines[3] == f"  saturation       0.5000  {'█' * 12}{'░' * 12}  0 to 1"
    ranges = {"iaa": (0.0, 100.0)}
    assert card({"image": "a", "iaa": None, "error": "gone"}, ["iaa"], ranges).endswith("-\n  gone")
    assert shorten("photographs/holiday/0001.png", 16) == "photo…y/0001.png"


def test_further_keys_are_carried_along_into_every_format(pictures: Path):
    lines = [{"image": "s1.png", "prompt": "a wall", "id": 1}, {"image": "s3.png", "split": "test", "id": 3}]
    Path("in/list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["score", "in/list.jsonl", *PIXELS, "--out", "a.jsonl"]) == 0
    first, second = rows("a.jsonl")
    assert first == {"image": "in/s1.png", "prompt": "a wall", "id": 1} | {
        key: first[key]
        for key in ("colourfulness", "saturation", "sharpness", "grid_energy", "error", "scored_by")
    }
    assert second["split"] == "test" and "prompt" not in second
    command = ["score", "in/list.jsonl", *PIXELS, "--out", "a.csv", "--filter", "id>2", "--list"]
    assert main([*command, "b.csv"]) == 0
    with open("b.csv", newline="") as stream:
        (kept,) = csv.DictReader(stream)
    assert (kept["image"], kept["split"]) == ("in/s3.png", "test")
    assert (kept["id"], kept["saturation"]) == ("3", "0.75")
    assert main([*command, "b.jsonl"]) == 0
    (again,) = rows("b.jsonl")
    assert (again["id"], again["saturation"]) == (3, 0.75)  # read back from text, and still numbers


def test_prompts_reach_the_scorer_and_their_absence_costs_nobody_else(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(SCORERS, "letters", PromptLength)
    lines: list[dict[str, str]] = [{"image": f"in/s{i}.png"} for i in range(5)]
    for i, prompt in ((0, "a"), (1, "bb"), (3, "dddd")):
        lines[i]["prompt"] = prompt
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["score", "list.jsonl", "--scorers", '[{"name": "letters"}]', "--out", "a.jsonl"]) == 3
    assert [row["letters"] for row in rows("a.jsonl")] == [1, 2, None, 4, None]
    assert [row["error"] for row in rows("a.jsonl")].count("an empty prompt") == 2
    command = ["score", "list.jsonl", "--scorers", '[{"name": "letters"}]', "--prompt", "ccc"]
    assert main([*command, "--out", "b.jsonl"]) == 0
    assert [row["letters"] for row in rows("b.jsonl")] == [1, 2, 3, 4, 3]


def test_a_list_must_not_bring_a_key_that_is_written_here(pictures: Path, capsys: pytest.CaptureFixture[str]):
    Path("list.jsonl").write_text('{"image": "in/s1.png", "saturation": 3}')
    assert main(["score", "list.jsonl", *PIXELS]) == 1
    assert "has a key 'saturation', which is written here; rename it" in capsys.readouterr().err


def test_out_keeps_all_rows_and_list_what_passes(pictures: Path, capsys: pytest.CaptureFixture[str]):
    command = ["score", "in", *PIXELS, "--out", "a.jsonl", "--filter"]
    assert main([*command, "saturation>=0.5", "--list", "kept.txt"]) == 3
    assert len(rows("a.jsonl")) == 6
    paths = Path("kept.txt").read_text().splitlines()
    assert paths == [str(pictures / "in" / f"s{i}.png") for i in (2, 3, 4)]
    assert main(["score", "kept.txt", *PIXELS, "--out", "again.jsonl"]) == 0  # a list is an input, too
    capsys.readouterr()
    before = Path("a.jsonl").read_bytes()
    assert main([*command, "saturation>0.9"]) == 3  # another filter needs no scoring
    captured = capsys.readouterr()
    assert [json.loads(line)["image"] for line in captured.out.splitlines()] == ["in/s4.png"]
    assert "6 of 6 are in a.jsonl already" in captured.err and Path("a.jsonl").read_bytes() == before


def test_what_failed_is_tried_again_on_request(pictures: Path):
    assert main(["score", "in", *PIXELS, "--out", "a.csv"]) == 3
    Path("in/s2.png").rename("in/t.png")  # mended, and another is gone
    assert main(["score", "in", "in/s2.png", *PIXELS, "--out", "a.csv"]) == 3
    assert main(["score", "in", "in/s2.png", *PIXELS, "--out", "a.csv", "--retry"]) == 0
    with open("a.csv", newline="") as stream:
        table = {row["image"]: row for row in csv.DictReader(stream)}
    assert table["in/t.png"]["saturation"] == "0.5" and table["in/t.png"]["error"] == ""
    assert len(table) == 6


def test_equal_lines_of_a_list_are_counted_when_a_run_goes_on(pictures: Path):
    Path("list.jsonl").write_text('{"image": "in/s1.png"}\n' * 3)
    assert main(["score", "list.jsonl", *PIXELS, "--out", "a.jsonl"]) == 0
    whole = Path("a.jsonl").read_text()
    Path("a.jsonl").write_text(whole[: whole.index("\n") + 1])
    assert main(["score", "list.jsonl", *PIXELS, "--out", "a.jsonl"]) == 0
    assert Path("a.jsonl").read_text() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--filter", "saturatoin>1"], "unknown name 'saturatoin'; known are colourfulness, saturation"),
        (["--filter", "saturation>"], "filter 'saturation>': invalid syntax"),
        (["--list", "a.txt"], "it lists what passes --filter"),
        (["--filter", "saturation>1", "--list", "a.doc"], "its suffix must be one of .txt, .jsonl"),
        (["--out", "a.jsonl", "--filter", "saturation>1", "--list", "a.jsonl"], "is also --out"),
        (["--sheet", "a.pdf"], "sheet a.pdf: its suffix must be one of .png"),
        (["--sheet", "a.png", "--sheet_by", "[iaa]"], "sheet_by: unknown name 'iaa'"),
        (["--out", "a.json"], "out a.json: its suffix must be one of .jsonl"),
        (["--retry"], "retry: it goes on with a file"),
        (["--batch_size", "0"], "batch_size 0: it must be at least 1"),
        (["--url", "http://127.0.0.1:1"], "url: a server has its own scorers"),
        (
            ["--scorers", "nowhere.yaml"],
            "scorers nowhere.yaml: neither names of scorers (unipercept, artimuse, clip",
        ),
    ],
)
def test_wrong_options_are_named_before_anything_is_scored(
    pictures: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["score", "in", *PIXELS, *options]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert [path.name for path in pictures.iterdir()] == ["in"]


def test_the_input_is_never_the_output(pictures: Path, capsys: pytest.CaptureFixture[str]):
    Path("a.jsonl").write_text('{"image": "in/s1.png"}')
    assert main(["score", "a.jsonl", *PIXELS, "--out", "in/../a.jsonl"]) == 1
    assert "is also what is to be scored" in capsys.readouterr().err
    assert Path("a.jsonl").read_text() == '{"image": "in/s1.png"}'


def test_scorers_come_from_a_servers_config_as_well(pictures: Path, capsys: pytest.CaptureFixture[str]):
    Path("serve.yaml").write_text("host: 127.0.0.1\nscorers: [{name: pixels}]\n")
    Path("score.yaml").write_text("scorers: [{name: pixels}]\nrecursive: true\nfilter: saturation>0.9\n")
    for options in (["--scorers", "serve.yaml", "--filter", "saturation>0.9"], ["--config", "score.yaml"]):
        assert main(["score", ".", *options, "--recursive"]) == 3
        assert json.loads(capsys.readouterr().out)["image"] == "./in/s4.png"


def test_orientation_is_applied_where_asked_and_noted(pictures: Path, capsys: pytest.CaptureFixture[str]):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (30, 20)).save("turned.png", exif=exif)
    assert main(["score", "turned.png", *PIXELS, "--exif", "apply", "--out", "a.jsonl"]) == 0
    assert rows("a.jsonl")[0]["scored_by"] == "pixels exif=apply"
    assert main(["score", "turned.png", *PIXELS, "--out", "a.jsonl"]) == 1
    assert "'pixels exif=apply', and this run would add some by 'pixels'" in capsys.readouterr().err


def test_statistics_by_hand():
    scores = [{"image": str(i), "iaa": float(i), "error": None} for i in range(11)]
    d = distribution([*scores, {"image": "x", "iaa": None, "error": "x: gone"}], "iaa")
    assert (d.count, d.missing, d.mean, d.minimum, d.maximum) == (11, 1, 5.0, 0.0, 10.0)
    assert d.sd == pytest.approx(np.std(range(11), ddof=1)) and d.quantiles == (0.5, 2.5, 5.0, 7.5, 9.5)
    assert sum(d.histogram) == 11
    assert bar_chart([0, 1, 100, 50]) == " ▁█▄" and bar_chart([0, 100], unicode=False) == " %"
    assert "-" in summary_text([{"image": "x", "iaa": None, "error": "gone"}], ["iaa"])


def test_equal_reasons_are_counted_together():
    failed = [{"image": f"{i}.png", "iaa": None, "error": f"{i}.png: no such file"} for i in range(3)]
    assert "  0.png (and 2 more): no such file" in summary_text(failed, ["iaa"])


def test_a_contact_sheet_shows_both_ends_and_no_picture_twice(pictures: Path):
    assert (
        main(
            ["score", "in", *PIXELS, "--out", "a.jsonl", "--sheet", "sheet.png", "--sheet_by", "[saturation]"]
        )
        == 3
    )
    found = rows("a.jsonl")
    highest, lowest = best_and_worst(found, "saturation")
    assert [row["image"] for row in highest] == ["in/s4.png", "in/s3.png", "in/s2.png"]
    assert [row["image"] for row in lowest] == ["in/s0.png", "in/s1.png"]
    highest, lowest = best_and_worst(found, "saturation", count=1)
    assert (highest[0]["image"], lowest[0]["image"]) == ("in/s4.png", "in/s0.png")
    sheet = PIL.Image.open("sheet.png").convert("RGB")
    colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height) or []}
    assert {(200, 200 - 50 * i, 200 - 50 * i) for i in range(5)} <= colours
    Path("in/s4.png").unlink()  # a picture that is gone leaves its frame
    assert (200, 0, 0) not in {c for _, c in draw_sheet(found, ["saturation"]).getcolors(1 << 20) or []}
    assert draw_sheet([], ["saturation"]).height > 0


def test_a_contact_sheet_in_the_folder_is_neither_scored_nor_takes_a_pictures_place(
    pictures: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["score", "in", "--scorers", "pixels", "--out", "a.jsonl", "--sheet_by", "saturation"]
    for _ in range(2):
        assert main([*command, "--sheet", "in/sheet.png"]) == 3
    assert len(rows("a.jsonl")) == 6
    assert main([*command, "--sheet", "sheet.jpg"]) == main([*command, "--sheet", "sheet.jpg"]) == 3
    before = Path("in/s1.png").read_bytes()
    capsys.readouterr()
    assert main([*command, "--sheet", "in/s1.png"]) == 1
    assert "sheet in/s1.png: is there, and no contact sheet" in capsys.readouterr().err
    assert main(["score", "in/sheet.png", *PIXELS, "--sheet", "in/sheet.png"]) == 1
    assert "sheet in/sheet.png: is also what is to be scored" in capsys.readouterr().err
    assert Path("in/s1.png").read_bytes() == before


def test_file_names_that_are_not_utf8_reach_every_format(pictures: Path):
    os.rename(b"in/s1.png", b"in/\xff1.png")
    for suffix in (".jsonl", ".csv", *((".parquet",) if importlib.util.find_spec("pyarrow") else ())):
        for _ in range(2):
            assert main(["score", "in", *PIXELS, "--out", f"a{suffix}"]) == 3
    assert b"\xff1.png,," in Path("a.csv").read_bytes()


def test_what_decides_scores_is_in_their_identity_and_nothing_else(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(bytes(3_000_000))
    (tmp_path / "b" / "README.md").write_text("the same weights")
    (tmp_path / "c" / "model.safetensors").write_bytes(
        bytes(1_500_000) + bytes([1]) * 50_000 + bytes(1_450_000)
    )
    a, b, c = (fingerprint(tmp_path / name) for name in ("a", "b", "c"))
    assert a == b != c
    spec = {"name": "unipercept", "path": str(tmp_path / "a"), "device": "cpu"}
    text = describe(spec)
    assert text.startswith("unipercept@") and text == describe(
        spec | {"path": str(tmp_path / "b"), "batch_size": 3}
    )
    assert text == describe(spec | {"dtype": "float32"})  # auto, on a CPU
    others = [{"path": str(tmp_path / "c")}, {"dtype": "bfloat16"}, {"system_message": "x"}]
    assert len({describe(spec | other) for other in others} | {text}) == 4
    assert scored_by([spec, {"name": "pixels"}], "apply") == f"{text} pixels exif=apply"


def test_every_file_that_an_option_names_counts_given_or_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def write(path: str, content: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)

    monkeypatch.chdir(tmp_path)
    hub = {"xswu/HPSv2": "HPS_v2.1_compressed.pt", "trl-lib/ddpo-aesthetic-predictor": "aesthetic-model.pth"}
    for folder, file in {**hub, "THUDM/ImageReward": "ImageReward.pt"}.items():
        write(f"{folder}/{file}", "weights")
    for folder in ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "openai/clip-vit-large-patch14", "words"):
        write(f"{folder}/tokenizer_config.json", "{}")
        write(f"{folder}/model.safetensors", "weights")
    specs = {
        "hpsv2": {"name": "hpsv2"},  # the folders of its defaults are here
        "laion": {"name": "laion"},
        "imagereward": {"name": "imagereward", "tokenizer": "words"},
        "pickscore": {"name": "pickscore", "path": "openai/clip-vit-large-patch14", "processor": "words"},
    }

    def all_of_them() -> dict[str, str]:
        return {name: describe(spec | {"device": "cpu"}) for name, spec in specs.items()}

    def changed_by(path: str, content: str) -> set[str]:
        before = all_of_them()
        write(path, content)
        return {name for name, text in all_of_them().items() if text != before[name]}

    explicit = {"path": str(tmp_path / "xswu/HPSv2"), "clip": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}
    assert describe(specs["hpsv2"] | explicit | {"device": "cpu"}) == all_of_them()["hpsv2"]
    assert changed_by("xswu/HPSv2/HPS_v2.1_compressed.pt", "others") == {"hpsv2"}
    assert changed_by("xswu/HPSv2/HPS_v2_compressed.pt", "another version") == set()
    assert changed_by("laion/CLIP-ViT-H-14-laion2B-s32B-b79K/merges.txt", "a b") == {"hpsv2"}
    assert changed_by("laion/CLIP-ViT-H-14-laion2B-s32B-b79K/model.safetensors", "not read") == set()
    assert changed_by("trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth", "others") == {"laion"}
    assert changed_by("openai/clip-vit-large-patch14/model.safetensors", "others") == {"laion", "pickscore"}
    assert changed_by("words/vocab.txt", "a") == {"imagereward", "pickscore"}
    assert changed_by("words/README.md", "a card") == set()
    assert changed_by("THUDM/ImageReward/ImageReward.pt", "others") == {"imagereward"}
    assert describe({"name": "ocr", "threads": 4}) == describe({"name": "ocr"})


class FailsOnGrey:
    """Mean of the pixels; a batch with a picture of saturation 0 in it fails as a whole."""

    name = "fragile"
    dimensions = ("mean",)
    ranges: Mapping[str, tuple[float, float]] = {"mean": (0, 255)}

    def score(self, images: Sequence[ImageLike], prompts: Sequence[str] | None = None) -> ScoreTable:
        arrays = [np.asarray(image) for image in images]
        if any(np.ptp(array.reshape(-1, 3)[0]) == 0 for array in arrays):
            raise RuntimeError("division by zero")
        return ScoreTable.computed(self.dimensions, [[array.mean()] for array in arrays])


def test_a_picture_that_breaks_a_scorer_costs_only_its_own_score(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(SCORERS, "fragile", FailsOnGrey)
    both = ["--scorers", '[{"name": "pixels"}, {"name": "fragile"}]', "--out", "rows.jsonl"]
    Path("in/a.png").write_bytes(Path("in/s4.png").read_bytes())
    assert main(["score", "in", *both, "--batch_size", "3"]) == 3
    found = {row["image"]: row for row in rows("rows.jsonl")}
    assert found["in/s0.png"]["mean"] is None and found["in/s0.png"]["saturation"] == 0.0
    assert found["in/s0.png"]["error"] == "in/s0.png: scorer 'fragile' failed: RuntimeError: division by zero"
    assert all(found[f"in/s{i}.png"]["mean"] > 0 for i in range(1, 5))
    assert len(found) == 7


def test_a_scorer_that_fails_on_everything_stops_the_run(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(SCORERS, "broken", Broken)
    for size in ("1", "4"):
        command = ["score", "in", "--scorers", "broken", "--out", "rows.jsonl", "--batch_size", size]
        assert main(command) == 1
        assert "out of memory" in capsys.readouterr().err
        assert not Path("rows.jsonl").exists()


def test_two_models_of_one_kind_score_side_by_side(pictures: Path, capsys: pytest.CaptureFixture[str]):
    both = ["--scorers", '[{"name": "pixels"}, {"name": "pixels", "prefix": "again"}]', "--out", "rows.jsonl"]
    assert main(["score", "in/s1.png", *both]) == 0
    row = rows("rows.jsonl")[0]
    assert row["again_saturation"] == row["saturation"] == 0.25
    assert row["scored_by"].startswith("pixels pixels@")
    assert main(["score", "in", "--scorers", '[{"name": "pixels", "prefix": "1st"}]']) == 1
    assert "prefix '1st': it must be letters" in capsys.readouterr().err
