"""Every file for `accelerate launch` becomes, by accelerate's own code, the launch that it describes."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
WITHOUT_ZERO = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def launch_arguments(path: Path, *more: str):
    """What accelerate makes of a file and options, before it starts anything."""
    parser = launch_command_parser()
    return _validate_launch_command(
        parser.parse_args(["--config_file", str(path), *more, "-m", "flow_grpo.train", "--config", "x.yaml"])
    )[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_becomes_the_launch_it_describes(path: Path):
    written = yaml.safe_load(path.read_text())
    arguments = launch_arguments(path, *(["--main_process_port", "0"] if path.stem != "two_nodes" else []))
    assert arguments.num_processes == written["num_processes"]
    assert arguments.mixed_precision == "no" and arguments.dynamo_backend.lower() == "no"
    kind = written["distributed_type"]
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (kind == "FSDP", kind == "DEEPSPEED")
    assert not arguments.use_megatron_lm and arguments.multi_gpu == (kind == "MULTI_GPU")
    if kind == "NO":
        command, environment = prepare_simple_launcher_cmd_env(arguments)
        assert command[1:] == ["-m", "flow_grpo.train", "--config", "x.yaml"]
        assert environment["ACCELERATE_USE_CPU"] == str(written["use_cpu"])
    elif kind == "DEEPSPEED":
        arguments.deepspeed_fields_from_accelerate_config = ""
        _, environment = prepare_deepspeed_cmd_env(arguments)
        assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
    else:
        environment = prepare_multi_gpu_env(arguments)
        assert environment.get("ACCELERATE_USE_FSDP") == ("true" if kind == "FSDP" else None)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_a_file_is_one_that_accelerate_reads(path: Path):
    config = load_config_from_file(str(path))  # refuses unknown keys of the first level, not of those below
    known = {action.dest for action in launch_command_parser()._actions}
    for section, prefix in (("fsdp_config", "fsdp_"), ("deepspeed_config", ""), ("dynamo_config", "dynamo_")):
        for key in getattr(config, section) or {}:
            assert f"{prefix}{key.removeprefix(prefix)}" in known, f"{section}.{key}"


def test_what_fsdp2_yaml_asks_for_is_what_the_trainer_takes(monkeypatch):
    from accelerate.utils import FullyShardedDataParallelPlugin

    from flow_grpo.split import check_kind

    environment = prepare_multi_gpu_env(launch_arguments(FOLDER / "fsdp2.yaml", "--main_process_port", "0"))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    check_kind("FSDP", plugin)
    assert plugin.reshard_after_forward is True and not plugin.transformer_cls_names_to_wrap


def test_two_machines_find_each_other():
    path = FOLDER / "two_nodes.yaml"
    assert yaml.safe_load(path.read_text())["main_process_port"] == 29500
    for rank in (0, 1):
        # Port 0: a free one of this machine, where 29500 may be taken.
        arguments = launch_arguments(path, "--machine_rank", str(rank), "--main_process_port", "0")
        prepare_multi_gpu_env(arguments)
        assert (arguments.nnodes, arguments.nproc_per_node, int(arguments.node_rank)) == ("2", "8", rank)
        assert arguments.rdzv_endpoint == f"10.0.0.1:{arguments.main_process_port}"
        assert arguments.rdzv_backend == "static"


def test_there_is_a_file_for_each_size_that_the_docs_name():
    named = {"one_gpu", "eight_gpu", "fsdp2", "zero2", "two_nodes", "one_cpu", "two_cpu"}
    assert named == {path.stem for path in FILES}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name, machines, told",
    [
        ("fsdp2", 1, "FSDP2: each of 2 processes"),
        pytest.param("zero2", 1, "ZeRO-2: each of 2 processes", marks=WITHOUT_ZERO),
        ("two_nodes", 2, "LoRA of iteration 1"),
    ],
)
def test_a_file_for_gpus_launches_two_processes_on_the_cpu(arguments, tmp_path, name, machines, told):
    """Two machines are two launchers that meet on this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(FOLDER / f"{name}.yaml"),
    ]
    command += ["--num_processes", "2", "--num_machines", str(machines), "--main_process_port", str(port)]
    command += ["--main_process_ip", "127.0.0.1"] if machines > 1 else []
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    given = arguments(iterations=1, prompts__validation="null")
    launchers = []
    for rank in range(machines):
        with (tmp_path / f"{rank}.log").open("wb") as log:
            whole = [*command, "--machine_rank", str(rank), "-m", "flow_grpo.train", *given]
            launchers.append(subprocess.Popen(whole, env=environment, cwd=ROOT, stdout=log, stderr=log))
    try:
        codes = [launcher.wait(timeout=400) for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
    assert codes == [0] * machines, (tmp_path / "0.log").read_text()[-3000:]
    assert told in (tmp_path / "0.log").read_text()
    assert (tmp_path / "run" / "checkpoints" / "step-000001").is_dir()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
