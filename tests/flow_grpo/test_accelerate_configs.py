"""Every file for `accelerate launch` becomes, by accelerate's own code, the launch that it describes."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))


def launch_arguments(path: Path, *more: str):
    """What accelerate makes of a file and options, before it starts anything."""
    parser = launch_command_parser()
    return _validate_launch_command(
        parser.parse_args(["--config_file", str(path), *more, "-m", "flow_grpo.train", "--config", "x.yaml"])
    )[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_becomes_the_launch_it_describes(path: Path):
    written = yaml.safe_load(path.read_text())
    arguments = launch_arguments(path)
    assert arguments.num_processes == written["num_processes"]
    assert arguments.mixed_precision == "no" and arguments.dynamo_backend.lower() == "no"
    assert not arguments.use_fsdp and not arguments.use_deepspeed and not arguments.use_megatron_lm
    if written["distributed_type"] == "NO":
        command, environment = prepare_simple_launcher_cmd_env(arguments)
        assert command[1:] == ["-m", "flow_grpo.train", "--config", "x.yaml"]
        assert environment["ACCELERATE_USE_CPU"] == str(written["use_cpu"])
    else:
        assert arguments.multi_gpu
        environment = prepare_multi_gpu_env(arguments)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"


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
    assert {"one_gpu", "eight_gpu", "two_nodes", "one_cpu", "two_cpu"} == {path.stem for path in FILES}
