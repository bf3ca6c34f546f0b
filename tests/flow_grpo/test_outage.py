"""A real reward server, killed in the middle of training: the run waits, or ends so that it can go on."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from safetensors.torch import load_file

from flow_grpo.cli import parse
from flow_grpo.train import main
from reward_plugin.app import build_app
from reward_plugin.scorers import build_scorers
from tests.flow_grpo.test_distributed import start

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # most of it is starting processes, which takes long on a busy machine
OPTIONS = {"iterations": 3, "validation.every": 3, "checkpoint.every": 100, "reward.ready_timeout": 300}


#: `reward_plugin serve` that is killed, as if by the kernel, while it scores.
KILLED_WHILE_SCORING = """
import os, signal, sys
from reward_plugin.__main__ import main
from reward_plugin.scorers.pixels import PixelScorer
score, scored = PixelScorer.score, 0
def killed(self, images, prompts=None):
    global scored
    scored += len(images)
    if scored > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return score(self, images, prompts)
PixelScorer.score = killed
main(["serve", "--config", sys.argv[2]])
"""
#: Pictures after which it is killed: 1 warms up, 2 are validated and 8 belong to the first iteration, so that
#: some of the second iteration's 8 have come back, and others are under way.
WITHIN_THE_SECOND_ITERATION = 14


class RewardServer:
    """`python -m reward_plugin serve` on one port, started as often as needed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.config = f"http://127.0.0.1:{port}", folder / "serve.yaml"
        self.config.write_text(yaml.safe_dump({"scorers": [{"name": "pixels"}], "port": port}))
        self.process: subprocess.Popen[bytes] | None = None
        self.options = {"reward.scorers": "null", "reward.url": self.url}

    def start(self, killed_after: int | None = None) -> None:
        """Start it, to be killed while it scores one picture more than so many, or never."""
        command = [sys.executable, "-m", "reward_plugin", "serve", "--config", str(self.config)]
        if killed_after is not None:
            command[1:] = ["-c", KILLED_WHILE_SCORING, str(killed_after), str(self.config)]
        with self.config.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def wait_until_killed(self) -> None:
        assert self.process is not None
        assert self.process.wait(timeout=600) == -signal.SIGKILL

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RewardServer]:
    server = RewardServer(tmp_path)
    yield server
    server.kill()


@contextlib.contextmanager
def training(arguments: list[str], log: Path, processes: int = 1) -> Iterator[subprocess.Popen]:
    """`python -m flow_grpo.train` in one process, or launched in two; what it says is in `log`."""
    if processes == 2:
        trainer = start(arguments, log)
    else:
        command = [sys.executable, "-m", "flow_grpo.train", *arguments]
        with log.open("wb") as output:
            trainer = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield trainer
    finally:
        trainer.kill()
        trainer.wait()


_undisturbed: dict[str, Path] = {}


@pytest.fixture
def undisturbed(arguments, tmp_path_factory) -> Path:
    """The folder of a run that scores by itself; made once for all tests."""
    if "run" not in _undisturbed:
        folder = tmp_path_factory.mktemp("undisturbed")
        assert main(arguments(run_dir=folder, **OPTIONS)) == 0
        _undisturbed["run"] = folder
    return _undisturbed["run"]


def end(run: Path) -> dict[str, bytes]:
    """Everything that a finished run has learned: weights, averages, optimizer."""
    folder = run / "checkpoints" / "step-000003"
    return {
        name: (folder / f"{name}.safetensors").read_bytes()
        for name in ("adapter", "ema", "optimizer", "best")
    }


def records(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


def assert_equal(run: Path, undisturbed: Path) -> None:
    """To the bit: a lost, doubled or other score would have changed the weights."""
    assert end(run) == end(undisturbed)
    assert records(run) == records(undisturbed)


def assert_close(run: Path, undisturbed: Path) -> None:
    """As far as two processes, which add up gradients in another order, equal one."""
    ours, theirs = (
        load_file(one / "checkpoints/step-000003/adapter.safetensors") for one in (run, undisturbed)
    )
    moved = max(value.abs().max() for key, value in theirs.items() if "lora_B" in key)
    assert moved > 1e-5
    assert max((ours[key] - theirs[key]).abs().max() for key in ours) < 0.02 * moved
    for mine, other in zip(records(run), records(undisturbed), strict=True):
        for key in ("step", "reward", "missing", "grad_norm"):
            assert mine[key] == pytest.approx(other[key], rel=2e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_short_outage_is_waited_out_and_changes_nothing(
    arguments, tmp_path, server, undisturbed, processes
):
    run, log = tmp_path / "run", tmp_path / "log"
    server.start(WITHIN_THE_SECOND_ITERATION)
    with training(arguments(run_dir=run, **OPTIONS, **server.options), log, processes) as trainer:
        server.wait_until_killed()
        assert [row["step"] for row in records(run)] == [1]  # it was within the second iteration
        time.sleep(0.5)
        server.start()
        assert trainer.wait(timeout=600) == 0, log.read_text()[-3000:]
    (assert_equal if processes == 1 else assert_close)(run, undisturbed)
    # Each message is a line of its own, where a terminal shows it and the bar goes on below.
    who, screen = "" if processes == 1 else r"process \d: ", log.read_text()
    outage = (
        rf"(^|[\r\n]){who}reward server {server.url}: .*; trying again \(no answer for 0 s, max_outage is"
    )
    assert re.search(outage, screen)
    assert re.search(rf"(^|[\r\n]){who}reward server {server.url} answers again, after [\d.]+ s\n", screen)


@pytest.mark.slow
def test_a_long_outage_ends_the_run_so_that_it_can_go_on(arguments, tmp_path, server, undisturbed):
    run, log = tmp_path / "run", tmp_path / "log"
    patient = arguments(run_dir=run, **OPTIONS, **server.options)
    server.start(WITHIN_THE_SECOND_ITERATION)
    with training([*patient, "--reward.max_outage", "1"], log) as trainer:
        server.wait_until_killed()
        assert trainer.wait(timeout=300) == 1
    last = log.read_text().rpartition("flow_grpo.train: error: ")
    assert "Traceback" not in last[0] and "error:" not in last[0]
    written = run / "checkpoints" / "step-000001"
    assert re.match(
        rf"reward server {server.url} gave no usable answer for \d+ s of max_outage 1 s .*--config FILE.*\n"
        rf"Stopped after iteration 1; the state is in {written}\. .*--resume auto when the server is back\."
        r"\n$",
        last[2],
    )
    assert json.loads((written / "state.json").read_text())["iteration"] == 1
    assert [row["step"] for row in records(run)] == [1]
    server.start()
    assert main(patient) == 0
    assert_equal(run, undisturbed)


class FailsFor:
    """An application behind a proxy that answers 502, as without its server, to requests with a prompt."""

    def __init__(self, app: Any, prompt: str) -> None:
        self.app, self.prompt = app, prompt.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/v1/score":
            return await self.app(scope, receive, send)
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        if any(self.prompt in message.get("body", b"") for message in messages):
            await send({"type": "http.response.start", "status": 502, "headers": [(b"content-length", b"0")]})
            return await send({"type": "http.response.body"})

        async def replay() -> Any:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
def test_a_server_that_one_process_cannot_reach_ends_both_with_a_checkpoint(arguments, tmp_path):
    log = tmp_path / "launch.log"
    with served(FailsFor(build_app(build_scorers([{"name": "pixels"}])), "grass and a house")) as url:
        options = {**OPTIONS, "reward.scorers": "null", "reward.url": url, "reward.max_outage": 1}
        launcher = start(arguments(**options), log)
        try:
            assert launcher.wait(timeout=500) != 0  # the processes' own patience is half an hour
        finally:
            launcher.kill()
    said = log.read_text()
    assert said.count("flow_grpo.train: error:") == 1, said
    stopped = re.search(
        r"max_outage 1 s .*HTTP 502.*\nStopped after iteration (\d); the state is in (.*)\. Start", said
    )
    assert stopped is not None, said
    written = Path(stopped[2])
    assert json.loads((written / "state.json").read_text())["iteration"] == int(stopped[1])
    assert load_file(written / "optimizer.safetensors") is not None and not list(written.parent.glob(".*"))
    # Whichever process has the prompt says so; the other one does not.
    assert len(set(re.findall(r"(?:^|[\r\n])process (\d): reward server", said))) == 1


@pytest.mark.parametrize("form", ["option", "file"])
def test_the_former_name_of_the_key_is_an_error_that_gives_the_present_one(tmp_path, capsys, form):
    file = tmp_path / "old.yaml"
    file.write_text("reward:\n  max_wait: 3\n")
    with pytest.raises(SystemExit):
        parse(["--reward.max_wait", "3"] if form == "option" else ["--config", str(file)])
    assert "max_wait is called reward.max_outage now" in capsys.readouterr().err
