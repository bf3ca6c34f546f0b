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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from safetensors.torch import load_file

from flow_grpo.cli import parse
from flow_grpo.train import main
from reward_plugin.app import build_app
from reward_plugin.client import RewardClient
from reward_plugin.scorers import build_scorers
from tests.flow_grpo.test_distributed import start

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # most of it is starting processes, which takes long on a busy machine
OPTIONS = {"iterations": 3, "validation.every": 3, "checkpoint.every": 100, "reward.ready_timeout": 300}


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

    def start(self) -> None:
        command = [sys.executable, "-m", "reward_plugin", "serve", "--config", str(self.config)]
        with self.config.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

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


def strike_within_the_second_iteration(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Validation submits once, an iteration twice: act while the fifth submission is under way."""
    submit, calls = RewardClient.submit, []

    def counted(self: RewardClient, *args: Any, **options: Any) -> Any:
        future = submit(self, *args, **options)
        calls.append(1)
        if len(calls) == 5:
            action()
        return future

    monkeypatch.setattr(RewardClient, "submit", counted)


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


@pytest.mark.slow
def test_a_short_outage_is_waited_out_and_changes_nothing(arguments, tmp_path, server, monkeypatch, capsys):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    server.start()
    assert main(arguments(run_dir=undisturbed, **OPTIONS)) == 0
    restart = threading.Timer(0.5, server.start)

    def strike() -> None:
        server.kill()
        restart.start()

    with monkeypatch.context() as patch:
        strike_within_the_second_iteration(patch, strike)
        capsys.readouterr()
        assert main(arguments(run_dir=disturbed, **OPTIONS, **server.options)) == 0
    restart.join()
    assert end(disturbed) == end(undisturbed)
    assert records(disturbed) == records(undisturbed)
    # Each message is a line of its own, where a terminal shows it and the bar goes on below.
    screen = capsys.readouterr().err
    assert re.search(
        rf"(^|[\r\n])reward server {server.url}: .*; trying again \(no answer for 0 s, max", screen
    )
    assert re.search(rf"(^|[\r\n])reward server {server.url} answers again, after [\d.]+ s\n", screen)


@pytest.mark.slow
def test_a_long_outage_ends_the_run_so_that_it_can_go_on(arguments, tmp_path, server, monkeypatch, capsys):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    server.start()
    assert main(arguments(run_dir=undisturbed, **OPTIONS)) == 0
    patient = arguments(run_dir=disturbed, **OPTIONS, **server.options)
    with monkeypatch.context() as patch:
        strike_within_the_second_iteration(patch, server.kill)
        assert main([*patient, "--reward.max_outage", "1"]) == 1
    last = capsys.readouterr().err.rpartition("flow_grpo.train: error: ")
    assert "Traceback" not in last[0] and "error:" not in last[0]
    written = disturbed / "checkpoints" / "step-000001"
    assert re.match(
        rf"reward server {server.url} gave no usable answer for \d+ s of max_outage 1 s .*--config FILE.*\n"
        rf"Stopped after iteration 1; the state is in {written}\. .*--resume auto when the server is back\."
        r"\n$",
        last[2],
    )
    assert json.loads((written / "state.json").read_text())["iteration"] == 1
    assert [row["step"] for row in records(disturbed)] == [1]
    server.start()
    assert main(patient) == 0
    assert end(disturbed) == end(undisturbed)
    assert records(disturbed) == records(undisturbed)


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
