"""Two gloo processes on the CPU under `accelerate launch`: they update as one would, and end together."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from flow_grpo.cli import parse
from flow_grpo.distributed import connect
from flow_grpo.train import main

ROOT = Path(__file__).parents[2]


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    """`accelerate launch` of two processes, their output in a file."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate" / "two_cpu.yaml")]
    command += ["--main_process_port", "0", "-m", "flow_grpo.train", *arguments]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def ranks(launcher: subprocess.Popen) -> dict[int, psutil.Process]:
    """The trainers that a launcher started, by rank."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    trainers = [child for child in children if "flow_grpo.train" in " ".join(child.cmdline())]
    return {int(child.environ()["RANK"]): child for child in trainers}


def kill_second_after_first_iteration(arguments: list[str], run: Path, log: Path) -> None:
    """Start two processes and kill one; the launcher and the other one must end, and not with success."""
    launcher = start(arguments, log)
    try:
        while not (run / "checkpoints" / "step-000001").is_dir():
            assert launcher.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        processes = ranks(launcher)
        assert set(processes) == {0, 1}
        processes[1].kill()
        assert launcher.wait(timeout=300) != 0  # the libraries' own patience is half an hour
        assert not processes[0].is_running()
    finally:
        for process in ranks(launcher).values() if launcher.poll() is None else ():
            process.kill()
        launcher.kill()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_processes_of_which_one_is_killed_equal_one_undisturbed(arguments, tmp_path):
    # Three held-out pictures on two processes: one has two, and none may count twice.
    held_out = tmp_path / "three.txt"
    held_out.write_text("a red boat\na blue cat\na green apple\n")
    options = {
        "prompts.validation": held_out,
        "advantage.std": "batch",
        "optimizer.updates_per_rollout": 2,
        "optimizer.micro_batch": 3,
        "regularizer.kl_weight": 0.01,
        "checkpoint.keep": 1000,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(arguments(run_dir=one, **options)) == 0
    endless = {**options, "iterations": 1000}
    kill_second_after_first_iteration(arguments(run_dir=two, **endless), two, tmp_path / "killed.log")
    resume = ["--resume", str(two / "checkpoints" / "step-000001")]
    again = start([*arguments(run_dir=two, **options), *resume], tmp_path / "again.log")
    assert again.wait(timeout=1500) == 0, (tmp_path / "again.log").read_text()[-3000:]
    for name in ("adapter", "ema"):
        ours, theirs = (load_file(run / f"checkpoints/step-000002/{name}.safetensors") for run in (one, two))
        moved = max(value.abs().max() for key, value in ours.items() if "lora_B" in key)
        assert moved > 1e-5
        assert max((ours[key] - theirs[key]).abs().max() for key in ours) < 0.02 * moved
    for file in ("metrics.jsonl", "eval.jsonl"):
        rows = [[json.loads(line) for line in (run / file).read_text().splitlines()] for run in (one, two)]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] != []
        for ours, theirs in zip(*rows, strict=True):
            for key in ("reward", "colourfulness", "sharpness", "grad_norm", "kl", "group_std"):
                if key in ours:
                    assert theirs[key] == pytest.approx(ours[key], rel=2e-3)


def test_the_processes_patience_covers_every_wait_that_the_configuration_allows(arguments):
    accelerator = connect(parse(arguments(reward__max_outage=7200, reward__ready_timeout=600)).config)
    assert accelerator.init_handler.timeout.total_seconds() > 7200 + 600


ENDING = """
import atexit, os, sys, torch

def gloo_threads():
    names = (open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task"))
    return sum("gloo" in name for name in names)

def say(text):
    os.write(1, f"{text}\\n".encode())  # in one piece, whatever the other process says

atexit.register(lambda: say(f"left: {gloo_threads()}"))  # the last of all to be called
if sys.argv[1] == "train":
    from flow_grpo.cli import parse
    from flow_grpo.distributed import connect
    accelerator = connect(parse(sys.argv[2:]).config)
else:
    from eval.processes import Processes
    processes = Processes()
from diffusers import FluxPipeline  # holds the group that there is, unless it was imported before
torch.distributed.all_reduce(torch.ones(1))
say(f"before: {gloo_threads() > 0}")
if sys.argv[1] == "train":
    accelerator.end_training()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("of", ["train", "eval"])
def test_the_threads_of_a_group_end_before_python_does(of: str, arguments, tmp_path):
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command += [str(script), of, *arguments()]
    ended = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("before: True") == 2, ended.stdout
    assert ended.stdout.count("left: 0") == 2, ended.stdout
