"""Runs that are interrupted go on where they ended, and ask, score and encode nothing twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.unisim.encoders import AT_ONCE
from eval.unisim.readers import READERS
from eval.unisim.samples import TASKS
from reward_plugin.unisim.encoder import Encoder
from tests.eval.schema import _check
from tests.eval.unisim.miniatures import WORLDS
from tests.eval.unisim.planted import (
    CLIP_SCORER,
    ENCODER,
    PIXELS,
    SCHEMA,
    ask,
    cell,
    gallery,
    results,
    rows,
    samples,
    write_bench,
)


def test_an_interrupted_encoder_goes_on_and_encodes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen: Counter[str] = Counter()
    real = Encoder.embed_images

    def embed(self: Encoder, images: Any) -> Any:
        if interrupting and seen:
            raise KeyboardInterrupt
        seen.update(images)
        return real(self, images)

    monkeypatch.setattr(Encoder, "embed_images", embed)
    write_bench(tmp_path / "m", TASKS)
    model = ENCODER | {"batch_size": 4}
    interrupting = True
    assert ask(tmp_path / "m", tmp_path, [PIXELS, model]) == 130
    assert len(seen) == 4 * AT_ONCE < len(gallery())
    assert "pocket-clip has answered 0 of 48 questions" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()
    kept = (tmp_path / "answers" / "floor__iqa__planted.jsonl").read_bytes()
    interrupting = False
    assert ask(tmp_path / "m", tmp_path, [PIXELS, model]) == 0
    assert max(seen.values()) == 1 and len(seen) == len(gallery())
    encoded = results(tmp_path)["models"][1]["encoded"]
    assert encoded["kept_pictures"] == 4 * AT_ONCE
    assert encoded["pictures"] + encoded["kept_pictures"] == len(gallery())
    assert (tmp_path / "answers" / "floor__iqa__planted.jsonl").read_bytes() == kept
    assert "floor: 24 of 48 questions are answered" in capsys.readouterr().err


def test_an_interrupted_scorer_goes_on_and_scores_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from reward_plugin.scorers.clip import ClipScorer

    seen: list[str] = []
    real = ClipScorer._rate

    def rate(self: ClipScorer, images: Any, texts: Any) -> Any:
        if interrupting and seen:
            raise KeyboardInterrupt
        seen.extend(texts)
        return real(self, images, texts)

    monkeypatch.setattr(ClipScorer, "_rate", rate)
    write_bench(tmp_path / "m", ["it_2afc", "nafc"])
    model = CLIP_SCORER | {"batch_size": 4}
    interrupting = True
    assert ask(tmp_path / "m", tmp_path, [model]) == 130
    assert len(seen) == 4
    interrupting = False
    assert ask(tmp_path / "m", tmp_path, [model]) == 0
    asked = [*samples("it_2afc"), *samples("nafc")]
    needed = {(name, sample.texts[0]) for sample in asked for name in sample.images}
    assert len(seen) == len(needed) == results(tmp_path)["models"][0]["encoded"]["scored"]


def test_interrupted_pixels_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from eval.unisim.pixels import PixelJudge

    seen: list[str] = []
    real = PixelJudge.alike

    def alike(self: PixelJudge, first: Any, second: Any) -> Any:
        if interrupting and seen:
            raise KeyboardInterrupt
        seen.extend(first)
        return real(self, first, second)

    monkeypatch.setattr(PixelJudge, "alike", alike)
    monkeypatch.setattr("eval.unisim.askers.PIXELS_AT_ONCE", 4)
    write_bench(tmp_path / "m", ["img_2afc"])
    interrupting = True
    assert ask(tmp_path / "m", tmp_path, [PIXELS]) == 130
    kept = rows(tmp_path, "floor", "img_2afc")
    assert [row["id"] for row in kept] == ["0", "1", "2", "3"]
    interrupting = False
    assert ask(tmp_path / "m", tmp_path, [PIXELS]) == 0
    assert rows(tmp_path, "floor", "img_2afc")[:4] == kept and len(seen) == 2 * 6
    assert cell(results(tmp_path), "floor", "img_2afc")["answered"] == 6


def interrupted(*args: Any) -> Any:
    raise KeyboardInterrupt


def test_every_published_layout_is_prepared_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for build in dict.fromkeys(WORLDS.values()):
        build(tmp_path / "data")
    encoder = ENCODER | {"batch_size": 64}
    with monkeypatch.context() as patched:  # interrupted while it prepares the second data set
        first, *rest = READERS
        patched.setattr("eval.unisim.prepare.READERS", READERS | dict.fromkeys(rest, interrupted))
        assert ask(tmp_path / "m", tmp_path / "out", [encoder], root=tmp_path / "data") == 130
    assert [path.name for path in (tmp_path / "m").glob("*.jsonl")] == [f"{first.replace('/', '__')}.jsonl"]
    assert ask(tmp_path / "m", tmp_path / "out", [encoder], root=tmp_path / "data") == 0
    record = results(tmp_path / "out")
    assert {f"{part['task']}/{part['dataset']}" for part in record["manifests"]} == set(WORLDS)
    model = record["models"][0]
    assert all(part["answered"] == part["questions"] > 0 for part in model["datasets"])
    assert model["averages"]["all"]["accuracy"] is not None and not record["problems"]
    assert list(_check(record, SCHEMA, SCHEMA, "record")) == []
    frozen = {path.name: path.read_bytes() for path in (tmp_path / "m").glob("*.jsonl")}
    assert ask(tmp_path / "m", tmp_path / "out", [encoder], root=tmp_path / "data") == 0
    assert frozen == {path.name: path.read_bytes() for path in (tmp_path / "m").glob("*.jsonl")}
