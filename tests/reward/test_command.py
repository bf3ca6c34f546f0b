"""The commands as a user runs them: exit codes, one clear line on bad input, and a real server process."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from reward_plugin.__main__ import build_parser, main
from reward_plugin.client import RewardClient
from reward_plugin.errors import RequestRefused
from reward_plugin.score.identity import scored_by
from reward_plugin.scorers import SCORERS, build_scorer
from reward_plugin.serve import ServeConfig
from tests.reward.golden import CHECKPOINT, FOLDER, TOLERANCE, expected

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_server(config: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m reward_plugin serve` with the given settings, and its address."""
    port = settings.setdefault("port", free_port())
    config.write_text(yaml.safe_dump(settings))
    with config.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "reward_plugin", "serve", "--config", str(config)],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_server_process_scores_exactly_and_stops_when_asked(tmp_path: Path):
    (tmp_path / "token").write_text("secret\n")
    images, values = expected("scores")
    scorers: list[dict[str, str]] = [
        {"name": "unipercept", "path": str(CHECKPOINT), "device": "cpu"},
        {"name": "pixels"},
    ]
    token_file = str(tmp_path / "token")
    with running_server(tmp_path / "serve.yaml", scorers=scorers, token_file=token_file) as (process, url):
        with RewardClient(url, token="secret", batch_size=2) as client:
            client.wait_ready(150)
            table = client.score(images)
            assert client.dimensions == table.dimensions
        np.testing.assert_allclose(table.values[:, :3], values, rtol=0, atol=TOLERANCE)
        with RewardClient(url) as stranger, pytest.raises(RequestRefused, match="token"):
            stranger.score(images[:1])
        assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "alive"

        out = tmp_path / "scores.jsonl"
        options = ["--url", url, "--token_file", token_file, "--out", str(out), "--batch_size", "2"]
        bad = [tmp_path / "gone.png", tmp_path / "empty.png"]
        bad[1].touch()
        assert main(["score", *map(str, [*images, *bad]), *options]) == 3
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        np.testing.assert_allclose([row["iaa"] for row in rows[:-2]], table.values[:, 0], rtol=0, atol=1e-4)
        assert [row["error"] for row in rows[-2:]] == [f"{bad[0]}: no such file", f"{bad[1]}: 0 bytes"]
        assert [row["iaa"] for row in rows[-2:]] == [None, None]
        assert {row["scored_by"] for row in rows} == {scored_by(scorers)}  # as if scored in this process

        second = subprocess.run(
            [sys.executable, "-m", "reward_plugin", "serve", "--port", url.rpartition(":")[2]],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert second.returncode == 1
        assert (
            second.stderr.count("\n") == 1 and "Address already in use; choose another port" in second.stderr
        )

        process.send_signal(signal.SIGTERM)
        process.wait(20)
    log = (tmp_path / "serve.log").read_text()
    assert f"reward server on {url}: unipercept (iaa, iqa, ista), pixels (" in log
    assert log.count("prompt:") == 1 and "Traceback" not in log and "secret" not in log


def test_help_names_what_a_command_alone_takes(capsys: pytest.CaptureFixture[str]):
    for name, takes in (("vqa", True), ("score", False)):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert (".json files of a benchmark" in " ".join(capsys.readouterr().out.split())) is takes


def test_a_restarted_server_is_waited_for(tmp_path: Path):
    scorers, port = [{"name": "pixels"}], free_port()
    image, other = (np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (9, 90, 200)))
    with running_server(tmp_path / "first.yaml", scorers=scorers, port=port) as (first, url):
        with RewardClient(url, max_outage=150) as client:
            client.wait_ready(150)
            client.score([image])
            first.send_signal(signal.SIGKILL)
            first.wait()
            future = client.submit([other])  # the client remembers the scores of the first
            time.sleep(0.5)
            assert not future.done()
            with running_server(tmp_path / "second.yaml", scorers=scorers, port=port):
                expected = build_scorer({"name": "pixels"}).score([other]).values
                np.testing.assert_array_equal(future.result(150).values, expected)


def test_score_prints_a_line_for_each_image_and_fails_if_one_failed(capsys: pytest.CaptureFixture[str]):
    good, bad = str(FOLDER / "images" / "coffee.jpg"), str(FOLDER / "expected.json")
    assert main(["score", bad, good, "--model", str(CHECKPOINT)]) == 3
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["image"] for row in rows] == [bad, good]
    assert rows[0]["iaa"] is None and "not one of PNG" in rows[0]["error"]
    assert rows[1]["iaa"] == pytest.approx(51.2115, abs=TOLERANCE) and rows[1]["error"] is None
    assert "1 of 2 images" in captured.err
    assert main(["score", good, "--scorers", '[{"name": "pixels"}]']) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["serve", "--prot", "1"], 2, "prot"),
        (["serve", "--port", "eighty"], 2, "eighty"),
        (["serve", "--port", "99999"], 1, "port 99999"),
        (["serve", "--port", "0"], 1, "scorers is empty"),
        (["serve", "--host", "0.0.0.0"], 1, "a token is required; set token_file or REWARD_TOKEN"),
        (["serve", "--token_file", "nowhere"], 1, "token_file nowhere"),
        (["score", "x.png"], 1, "give --model"),
        (["score", "x.png", "--model", "no/such/folder"], 1, "no/such/folder: no such folder"),
        (["score"], 2, "images"),
        ([], 2, "serve"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("reward_plugin: ") and error.count("\n") == 1 and message in error


def test_an_unknown_key_in_a_config_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "serve.yaml"
    config.write_text("hots: 127.0.0.1\nscorers: [{name: pixels}]\n")
    assert main(["serve", "--config", str(config)]) == 2
    assert "hots" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "reward").glob("*.yaml")), ids=lambda path: path.name
)
def test_shipped_configs_load(path: Path):
    options = build_parser().parse_args(["serve", "--config", str(path)]).serve
    config = ServeConfig(**{name: options[name] for name in ServeConfig.__dataclass_fields__})
    assert {spec["name"] for spec in config.scorers} <= set(SCORERS)


@pytest.mark.parametrize("command", ["serve", "score", "chat", "vqa", "analyse", "profile"])
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--config" in text and "YAML" in text


def test_help_waits_for_no_model_library():
    code = """
import sys
from reward_plugin.__main__ import main
try:
    main(["--help"])
except SystemExit:
    print(sorted({"torch", "transformers", "fastapi", "uvicorn", "pyarrow"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "{serve,score,chat,vqa,analyse,profile}" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
