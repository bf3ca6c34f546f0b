"""Asked to end, a run drops or finishes its iteration, writes a checkpoint, and ends with its own code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flow_grpo.signals import EXIT_CODE, StopRequested, interruptible, listening, requested
from flow_grpo.train import main
from tests.flow_grpo.ranks import Forked, group

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)
ENDLESS = {"iterations": 100000, "validation.every": 100000, "checkpoint.every": 100000}


def completed(run: Path) -> int:
    """Iterations in the record."""
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def test_a_signal_interrupts_only_where_it_may():
    with listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert requested() == "SIGUSR1"  # noted, and nothing else
        with pytest.raises(StopRequested, match="SIGUSR1"), interruptible():
            raise AssertionError("entered although a signal had come before")
    assert requested() is None
    with listening():
        with pytest.raises(StopRequested, match="SIGTERM"), interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGTERM)  # once is enough
        assert requested() == "SIGTERM"


def test_what_is_ignored_stays_ignored_and_the_former_handlers_come_back():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert requested() is None
            assert signal.getsignal(signal.SIGTERM) != ours[signal.SIGTERM]
        assert {number: signal.getsignal(number) for number in ours} == ours
    finally:
        signal.signal(signal.SIGHUP, former)


def test_insisting_ends_without_a_checkpoint(monkeypatch):
    with listening(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher and the terminal both send it
        monkeypatch.setattr("flow_grpo.signals.INSISTING", 0.0)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_ends_the_run_with_a_checkpoint_that_goes_on_to_the_same_end(arguments, tmp_path, name):
    straight, run = tmp_path / "straight", tmp_path / "run"
    process = Forked(arguments(run_dir=run, **ENDLESS), tmp_path / "log")
    process.until(lambda: completed(run) >= 2)
    process.send(getattr(signal, name))
    assert process.wait() == EXIT_CODE
    done = completed(run)
    assert newest(run).name == f"step-{done:06d}"
    said = f"asked to stop by {name}\nStopped after iteration {done}; the state is in {newest(run)}. "
    assert said in process.text() and "Traceback" not in process.text()
    options = {**ENDLESS, "iterations": done + 2}
    assert main(arguments(run_dir=run, **options)) == 0
    assert main(arguments(run_dir=straight, **options)) == 0
    for file in ("adapter", "ema", "optimizer"):
        ours, theirs = (newest(folder) / f"{file}.safetensors" for folder in (run, straight))
        assert ours.read_bytes() == theirs.read_bytes()


def test_waiting_for_a_server_that_is_down_ends_at_once(arguments, tmp_path):
    """`max_outage` would have it wait for an hour; the iteration is dropped."""
    run = tmp_path / "run"
    options = {"reward.scorers": "null", "reward.url": "http://127.0.0.1:9", "reward.max_outage": 3600}

    def skip_the_greeting():
        from reward_plugin.client import RewardClient

        RewardClient.wait_ready = lambda *_: None  # type: ignore[method-assign]
        RewardClient.dimensions = ("colourfulness", "sharpness")  # type: ignore[assignment]

    process = Forked(arguments(run_dir=run, **ENDLESS, **options), tmp_path / "log", before=skip_the_greeting)
    process.until(lambda: "trying again" in process.text())
    process.send(signal.SIGTERM)
    assert process.wait(60) == EXIT_CODE
    assert newest(run).name == "step-000000" and json.loads((newest(run) / "state.json").read_text())


def test_a_signal_to_one_of_two_processes_ends_both_together(arguments, tmp_path):
    run = tmp_path / "run"
    both = group(2, arguments(run_dir=run, **ENDLESS), tmp_path / "logs")
    both[0].until(lambda: completed(run) >= 1)
    both[1].send(signal.SIGTERM)  # the one that writes nothing
    assert [process.wait() for process in both] == [EXIT_CODE] * 2
    assert newest(run).name == f"step-{completed(run):06d}"
    assert re.search(r"asked to stop by SIGTERM\nStopped after iteration \d+; the state", both[0].text())


@pytest.mark.slow
def test_the_launcher_of_one_process_takes_it_along(arguments, tmp_path):
    """accelerate starts it as a child and passes no signal on."""
    run, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "configs" / "accelerate" / "one_cpu.yaml"), "-m", "flow_grpo.train"]
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            [*command, *arguments(run_dir=run, **ENDLESS)], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        while completed(run) < 1:
            assert launcher.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        (trainer,) = psutil.Process(launcher.pid).children()
        launcher.terminate()
        psutil.wait_procs([trainer], timeout=240)
        assert not trainer.is_running()
    finally:
        launcher.kill()
        launcher.wait()
    assert newest(run).name == f"step-{completed(run):06d}" and "asked to stop by SIGTERM" in log.read_text()
