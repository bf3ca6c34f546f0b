"""An ablation on a Ray cluster of this machine; Ray stays out of the test's own process."""

import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.ablate_config import AblateConfig, ClusterConfig
from eval.ablate_ray import carry_out
from tests.eval.test_ablate import matrix

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 300.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a head with two cores, and the environment of those who join it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is an extra: pip install -e .[ray]")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0",
    }
    command = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    log = tmp_path_factory.mktemp("ray") / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", *command, "--include-dashboard=false"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + PATIENCE
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}", environment
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def ablate(path: Path, address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval", "ablate", "--config", str(path), "--ray", address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def written(tmp_path: Path, files: dict[str, Any], **values: Any) -> Path:
    path = tmp_path / "matrix.yaml"
    axes = {"rate": {"slow": {"optimizer.lr": 0.01}}}
    path.write_text(yaml.safe_dump({**files, "server": None, "axes": axes, "seeds": [0, 1], **values}))
    return path


def test_runs_are_carried_out_on_the_cluster_and_taken_up_again(cluster, files, tmp_path):
    path, out = written(tmp_path, files), Path(files["out"])
    done = ablate(path, *cluster)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert [row["state"] for row in results["runs"]] == ["done", "done"]
    assert "/2] slow/seed1: done in" in done.stdout and (out / "index.html").is_file()
    again = ablate(path, *cluster)
    assert again.returncode == 0 and "0 of 2 runs to do" in again.stdout


def test_a_run_that_fails_on_a_node_is_named_and_what_no_node_has_is_refused(cluster, files, tmp_path):
    axes = {"prompts": {"missing": {"prompts.train": str(tmp_path / "missing.txt")}}}
    failed = ablate(written(tmp_path, files, axes=axes, seeds=[0]), *cluster)
    assert (
        failed.returncode == 1 and "missing/seed0: FAILED" in failed.stderr and "missing.txt" in failed.stderr
    )
    refused = ablate(written(tmp_path, files, cluster={"gpus": 3}), *cluster)
    assert refused.returncode == 1 and "cluster.gpus 3: no node of the cluster has as many" in refused.stderr
    alone = ablate(written(tmp_path, files), "127.0.0.1:1", cluster[1])
    assert alone.returncode == 1 and "--ray 127.0.0.1:1:" in alone.stderr
    served = ablate(written(tmp_path, files, server="configs/reward/pocket.yaml"), *cluster)
    assert served.returncode == 1 and "it would listen on this machine only" in served.stderr


def test_a_folder_that_the_node_lacks_is_named(files):
    from eval.ablate_config import expand

    config = matrix(files)
    kind, reason = carry_out(config, expand(config)[0], "/nowhere") or ("", "")
    assert kind == "failed" and reason.startswith("/nowhere is not on this node (No such file")


def test_a_run_takes_at_least_a_core():
    with pytest.raises(ValueError, match=r"cluster\.cpus is 0\.5, gpus 0\.0; at least one core"):
        AblateConfig(axes={"a": {"b": {}}}, cluster=ClusterConfig(cpus=0.5))
