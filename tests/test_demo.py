"""The demo's own parts: child processes are measured and always stopped, a failure is told clearly."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocket import demo
from pocket.process import Child, ChildFailed, tail
from tests.tiny import tiny_flux, tiny_prompts

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, log: Path, *, echo: bool = False) -> Child:
    return Child("the child", [sys.executable, "-c", code], log, echo=echo)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not yet waited for does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def test_free_port_can_be_bound():
    with socket.socket() as server:
        server.bind(("127.0.0.1", demo.free_port()))


def test_output_goes_to_the_log_and_the_terminal(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    with python("print('one'); print('two')", tmp_path / "logs" / "a.log", echo=True) as child:
        child.wait()
    assert child.log.read_bytes() == capfdbinary.readouterr().out == b"one\ntwo\n"


def test_peak_memory_is_that_of_the_largest_descendant(tmp_path: Path):
    grandchild = "b = bytearray(300 * 2**20)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    # Measured from a small process, as the demo is: a child's peak begins with its parent's memory.
    code = f"""
import pathlib, sys
from pocket.process import Child
with Child("the child", [sys.executable, "-c", {child!r}], pathlib.Path(sys.argv[1])) as child:
    child.wait()
print(child.peak_gib, child.seconds)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.log")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    peak_gib, seconds = map(float, done.stdout.split())
    assert 0.29 < peak_gib < 0.35
    assert 0 < seconds < 60


def test_a_failure_names_the_child_the_code_and_the_end_of_the_log(tmp_path: Path):
    code = "print('step 1\\rstep 2'); print('no such model'); raise SystemExit(3)"
    with python(code, tmp_path / "a.log") as child, pytest.raises(ChildFailed) as caught:
        child.wait()
    message = str(caught.value)
    assert "the child failed with exit code 3" in message
    assert str(tmp_path / "a.log") in message
    assert message.endswith("    step 2\n    no such model")


def test_tail_of_a_missing_log(tmp_path: Path):
    assert tail(tmp_path / "none.log") == "    (empty)"


def test_leaving_the_block_stops_the_whole_group(tmp_path: Path):
    sleeper = "import time; time.sleep(600)"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleeper!r}])\n"
        "print(child.pid, flush=True); child.wait()"
    )
    with pytest.raises(KeyboardInterrupt), python(code, tmp_path / "a.log") as child:
        assert wait_for(lambda: child.log.read_text().strip())
        grandchild = int(child.log.read_text())
        assert is_alive(grandchild)
        raise KeyboardInterrupt
    assert child.poll() is not None
    assert wait_for(lambda: not is_alive(grandchild))


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path):
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    with python(code, tmp_path / "a.log") as child:
        assert wait_for(lambda: child.log.read_text())
        child.stop(grace=0.2)
    assert child.poll() == -9


def test_a_child_is_not_waited_for_when_what_it_needs_has_ended(tmp_path: Path):
    with (
        python("print('no memory'); raise SystemExit(7)", tmp_path / "server.log") as server,
        python("import time; time.sleep(600)", tmp_path / "trainer.log") as trainer,
        pytest.raises(
            ChildFailed, match=r"failed with exit code 7 while the child needed it(.|\n)*no memory"
        ),
    ):
        trainer.wait(needs=server)
    assert trainer.poll() == -15


def test_closing_the_terminal_stops_the_children_too(tmp_path: Path):
    code = f"""
import os, pathlib, signal, sys
from pocket.process import Child, interrupt_only_while_waiting
interrupt_only_while_waiting()
command = [sys.executable, "-c", "import time; time.sleep(600)"]
with Child("the child", command, pathlib.Path("{tmp_path}/a.log")) as child:
    print(child._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGHUP)
    child.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in done.stderr
    assert not is_alive(int(done.stdout))


def test_starting_over_removes_what_the_demo_wrote_and_nothing_else(tmp_path: Path):
    for name in ("train/checkpoints/step-000001/state.json", "eval.log", "thesis.tex", "photos/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    demo.remove(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "thesis.tex"]
    demo.remove(tmp_path / "nowhere")


def test_the_table_has_the_decimals_that_a_number_needs(tmp_path: Path):
    row = {"n": 2, "base_mean": 54.2, "tuned_mean": 62.3, "difference": 8.1, "interval": [7.1, 9.1]}
    tiny = {"n": 2, "base_mean": 0.0011, "tuned_mean": 0.0008, "difference": -0.0003, "interval": None}
    summary = {"iaa": row, "grid_energy": tiny, "adherence": {"n": 0}}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"comparisons": [{"confidence": 0.95, "summary": summary}]}))
    lines = [line.split(maxsplit=4) for line in demo.table(results).splitlines()[1:]]
    assert lines[0] == ["iaa", "54.20", "62.30", "+8.10", "+7.10 to +9.10"]
    assert lines[1] == ["grid_energy", "0.0011", "0.0008", "-0.0003", "one prompt only"]
    assert " ".join(lines[2]) == "adherence could not be measured"


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "pocket.demo", "--out", str(tmp_path / "file" / "demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().startswith("demo: ") and str(tmp_path / "file") in done.stderr


def test_wait_ready_reports_a_server_that_died(tmp_path: Path):
    with python(
        "raise SystemExit('pocket/weights/unipercept: not a directory')", tmp_path / "a.log"
    ) as server:
        with pytest.raises(ChildFailed, match=r"exit code 1 before it was ready(.|\n)*not a directory"):
            demo.wait_ready(server, f"http://127.0.0.1:{demo.free_port()}", seconds=30)


def test_wait_ready_gives_up_after_its_time(tmp_path: Path):
    with python("import time; time.sleep(600)", tmp_path / "a.log") as server:
        with pytest.raises(ChildFailed, match="not ready after 1 s"):
            demo.wait_ready(server, f"http://127.0.0.1:{demo.free_port()}", seconds=1)


def test_a_missing_config_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        demo.parse_args(["--train-config", "configs/none.yaml"])
    assert "configs/none.yaml is not a file" in capsys.readouterr().err


def test_a_failing_stage_ends_the_demo_with_one_message_and_no_process(tmp_path: Path):
    config = tmp_path / "reward.yaml"
    config.write_text("no_such_key: 1\n")
    options = [
        "--out",
        tmp_path / "out",
        "--reward-config",
        config,
        "--train-config",
        config,
        "--eval-config",
        config,
    ]
    command = [sys.executable, "-m", "pocket.demo", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "demo: reward server ended with exit code" in done.stderr
    assert "no_such_key" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def tiny_demo(tmp_path: Path) -> list[str]:
    """The command of a demo that takes seconds: a random model of few parameters, two iterations."""
    tiny_flux(tmp_path / "flux")
    tiny_prompts(tmp_path / "train.txt")
    tiny_prompts(tmp_path / "heldout.txt", ["a green house", "a cat on the grass"])
    scorers = "scorers: [{name: unipercept, path: tests/data/unipercept/checkpoint}, {name: pixels}]\n"
    (tmp_path / "reward.yaml").write_text(scorers)
    (tmp_path / "train.yaml").write_text(
        f"""
iterations: 2
model:
  path: {tmp_path}/flux
  dtype: float32
  height: 32
  width: 32
  max_sequence_length: 32
  lora: {{rank: 2, alpha: 4}}
prompts: {{train: {tmp_path}/train.txt, per_iteration: 2, group_size: 2}}
sampler: {{num_steps: 2, chunk: 4}}
reward: {{weights: {{iaa: 1.0}}, url: "http://127.0.0.1:1"}}
optimizer: {{updates_per_rollout: 1}}
"""
    )
    (tmp_path / "eval.yaml").write_text(
        f"""
model: {tmp_path}/flux
prompts: {tmp_path}/heldout.txt
sampling: {{num_steps: 2, height: 32, width: 32, max_sequence_length: 32}}
reward:
  weights: {{iaa: 1.0}}
  {scorers}
targets: {{adherence: null}}
"""
    )
    options = [
        *("--out", tmp_path / "out", "--reward-config", tmp_path / "reward.yaml"),
        *("--train-config", tmp_path / "train.yaml", "--eval-config", tmp_path / "eval.yaml"),
    ]
    return [sys.executable, "-m", "pocket.demo", *map(str, options)]


def commands_with(word: str) -> list[str]:
    """The command lines of all running processes that contain a word."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in line:
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_runs_after_it_was_interrupted(tiny_demo: list[str], tmp_path: Path):
    log = tmp_path / "interrupted.log"
    with log.open("wb") as output:
        demo_process = subprocess.Popen(tiny_demo, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            assert wait_for(lambda: "== post-training" in log.read_text(), seconds=200), log.read_text()
        finally:
            demo_process.send_signal(signal.SIGTERM)
            code = demo_process.wait(timeout=60)
    assert code == 130
    assert "Traceback" not in log.read_text()
    url = re.search(r"http://127.0.0.1:\d+", log.read_text())
    assert url and not commands_with(url[0]), "the trainer outlived the demo"
    assert not commands_with(str(tmp_path / "reward.yaml")), "the server outlived the demo"

    done = subprocess.run(tiny_demo, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not commands_with(str(tmp_path / "reward.yaml"))

    out = tmp_path / "out"
    usage = json.loads((out / "usage.json").read_text())
    assert list(usage) == ["reward server", "post-training", "evaluation"]
    assert all(stage["seconds"] > 0 and 0.1 < stage["peak_gib"] < 4 for stage in usage.values())
    metrics = (out / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2]
    for line in done.stdout.rsplit("\n\n", 1)[1].splitlines()[:4]:
        assert Path(line.split(maxsplit=1)[1]).is_file(), line
    assert re.search(r"^iaa +\d+\.\d+ +\d+\.\d+ +[+-]", done.stdout, re.MULTILINE)
