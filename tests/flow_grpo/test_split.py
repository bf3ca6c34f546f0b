"""Two gloo processes that share a model out, by FSDP2 or ZeRO-2: the run of one, and an end for both."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from safetensors.torch import load_file

from flow_grpo.signals import EXIT_CODE
from flow_grpo.train import main
from tests.flow_grpo.ranks import Forked, group
from tests.flow_grpo.test_distributed_ranks import ENDLESS, assert_close, rows
from tests.tiny_pipelines import tiny_qwen_image, tiny_sd3

pytestmark = pytest.mark.timeout(900)
#: What `accelerate launch` sets for configs/accelerate/fsdp2.yaml and zero2.yaml, but for efficient loading,
#: which is its default where a file says nothing.
SPLIT = {
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    },
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
}
WITH_ZERO = pytest.param(
    "zero2", marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
)
BOTH = pytest.mark.parametrize("kind", ["fsdp2", WITH_ZERO])


def pair(kind: str, command, folder, before: Callable[[], object] = lambda: None) -> list[Forked]:
    """Two processes that share the model out."""
    return group(2, command, folder, before, **SPLIT[kind])


@pytest.fixture
def mixed(tmp_path):
    """Options of a run whose held-out pictures and micro-batches are no multiple of the processes."""
    (tmp_path / "three.txt").write_text("a red boat\na blue cat\na green apple\n")
    return {
        "prompts.validation": tmp_path / "three.txt",
        "advantage.std": "batch",
        "optimizer.updates_per_rollout": 2,
        "optimizer.micro_batch": 3,
        "sampler.chunk": 1,
        "validation.every": 1,
        "checkpoint.keep": 9,
    }


def report_shares() -> None:
    """Before training: tell what this process holds, and differentiate once as the memory probe does."""
    from flow_grpo.policy.probe import differentiate

    run: Any = import_module("flow_grpo.run")
    settled = run.settled

    def observed(config, policy, text, accelerator):
        held = {"base": [0, 0], "adapters": [0, 0]}
        for value in policy.module.parameters():
            local = value.to_local() if hasattr(value, "to_local") else value
            pair = held["adapters" if value.requires_grad else "base"]
            pair[0], pair[1] = pair[0] + local.numel(), pair[1] + value.numel()
        print("held", json.dumps(held), flush=True)
        differentiate(policy, policy.encode([text]), 1 + accelerator.process_index)
        assert all(value.grad is None for value in policy.trainable.values())
        return settled(config, policy, text, accelerator)

    run.settled = observed


def fail_on_the_second(spoil, after: int):
    """Spoil the second process's rewards, from a call on."""

    def before() -> None:
        from tests.flow_grpo.interrupted import Interrupted

        launch: Any = import_module("flow_grpo.launch")
        if os.environ["RANK"] == "1":
            launch.build_rewards = lambda config: Interrupted(config, after, spoil)

    return before


@BOTH
def test_a_run_goes_on_split_whole_and_split_as_one_alone_would(arguments, mixed, tmp_path, kind):
    options = {**mixed, "regularizer.kl_weight": 0.01}
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert main(arguments(run_dir=alone, **{**options, "iterations": 4})) == 0
    for iterations, split in ((2, True), (3, False), (4, True)):
        command = arguments(run_dir=many, **{**options, "iterations": iterations})
        if split:
            both = pair(kind, command, tmp_path / f"{iterations}", report_shares)
            assert [process.wait() for process in both] == [0, 0], both[0].text()[-3000:]
        else:
            assert main(command) == 0
    assert_close(alone, many, step=4)
    ours, theirs = (load_file(run / "checkpoints/step-000004/optimizer.safetensors") for run in (alone, many))
    assert ours.keys() == theirs.keys() and any(key.startswith("exp_avg_sq/") for key in ours)
    for key, value in ours.items():
        assert (value - theirs[key]).abs().max() <= 0.02 * value.abs().max() + 1e-9
    states = [json.loads((run / "checkpoints/step-000004/state.json").read_text()) for run in (alone, many)]
    assert states[0]["cursor"] == states[1]["cursor"] and states[0]["model"] == states[1]["model"]


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "nft", "sampler.noise_level": 0},
        {
            "sampler.shared_noise": "true",
            "sampler.branch": "true",
            "sampler.window.kind": "fixed",
            "sampler.window.start": 1,
            "model.gradient_checkpointing": "true",
            "reward.constraints": "{sharpness: {max_relative_drop: 0.01, base_members: 1}}",
        },
        pytest.param(
            {
                "model.compile": "true",
                "model.lora.targets": "[attn.to_q, norm_out.linear, proj_out, x_embedder]",
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["nft", "branch, constraint, recomputed blocks", "compiled blocks, adapters outside of them"],
)
def test_every_kind_of_forward_pass_is_made_together(arguments, mixed, tmp_path, options):
    def compile_quickly() -> None:
        engine: Any = import_module("flow_grpo.policy.engine")
        engine.compile_blocks = partial(engine.compile_blocks, backend="eager")

    alone, many = tmp_path / "alone", tmp_path / "many"
    given = {**mixed, **options, "iterations": 1}
    assert main(arguments(run_dir=alone, **{**given, "model.compile": "false"})) == 0
    command = arguments(run_dir=many, **given)
    both = pair("fsdp2", command, tmp_path / "logs", compile_quickly)
    assert [process.wait() for process in both] == [0, 0], both[0].text()[-3000:]
    assert_close(alone, many, step=1)


@pytest.mark.parametrize("build", [tiny_sd3, tiny_qwen_image], ids=["sd3", "qwen"])
def test_other_models_are_split_by_blocks_of_their_own(arguments, mixed, tmp_path, build):
    alone, many = tmp_path / "alone", tmp_path / "many"
    given = {**mixed, "iterations": 1, "model.path": build(tmp_path / "model"), "model.guidance_scale": 2}
    assert main(arguments(run_dir=alone, **given)) == 0
    both = pair("fsdp2", arguments(run_dir=many, **given), tmp_path / "logs")
    assert [process.wait() for process in both] == [0, 0], both[0].text()[-3000:]
    assert_close(alone, many, step=1)


@pytest.mark.parametrize("text_cache", [False, True])
def test_each_process_holds_its_share_of_the_base_and_all_of_the_adapters(arguments, tmp_path, text_cache):
    """In bfloat16, with float32 adapters; one with a text cache loads its encoders beside the model."""
    options = {"model.dtype": "bfloat16", "iterations": 1, "prompts.validation": "null"}
    options |= {"model.text_cache": tmp_path / "cache"} if text_cache else {}
    run = tmp_path / "run"
    both = pair("fsdp2", arguments(run_dir=run, **options), tmp_path / "logs", report_shares)
    assert [process.wait() for process in both] == [0, 0], both[0].text()[-3000:]
    held = [json.loads(re.findall(r"^held (.*)$", process.text(), re.M)[0]) for process in both]
    total = held[0]["base"][1]
    assert total > 1000 and total == held[1]["base"][1]
    shares = [one["base"][0] for one in held]
    # Every weight is cut in rows, an odd one among them falls to the first.
    assert sum(shares) == total and max(shares) < 0.52 * total
    assert all(one["adapters"][0] == one["adapters"][1] for one in held)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_of_two_ends_both_with_a_checkpoint_that_goes_on(arguments, tmp_path, victim):
    run, straight = tmp_path / "run", tmp_path / "straight"
    options = {**ENDLESS, "sampler.chunk": 1}
    both = pair("fsdp2", arguments(run_dir=run, **options), tmp_path / "logs")
    both[0].until(lambda: len(rows(run)) >= 2)
    both[victim].send(signal.SIGTERM)
    assert [process.wait() for process in both] == [EXIT_CODE] * 2, both[0].text()[-3000:]
    done = len(rows(run))
    assert f"asked to stop by SIGTERM\nStopped after iteration {done}; the state" in both[0].text()
    assert main(arguments(run_dir=run, **{**options, "iterations": done + 1})) == 0
    assert main(arguments(run_dir=straight, **{**options, "iterations": done + 1})) == 0
    assert_close(run, straight, step=done + 1)


def test_a_signal_ends_the_wait_of_both_for_a_server_that_is_down(arguments, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"

    def skip_the_greeting() -> None:
        from reward_plugin.client import RewardClient

        RewardClient.wait_ready = lambda *_: None  # type: ignore[method-assign]
        RewardClient.dimensions = ("colourfulness", "sharpness")  # type: ignore[assignment]

    run = tmp_path / "run"
    options = {**ENDLESS, "reward.scorers": "null", "reward.url": url, "reward.max_outage": 3600}
    command = arguments(run_dir=run, **options)
    both = pair("fsdp2", command, tmp_path / "logs", skip_the_greeting)
    both[0].until(lambda: "trying again" in both[0].text())
    both[1].until(lambda: "trying again" in both[1].text())
    for process in both:  # as a launcher does
        process.send(signal.SIGTERM)
    assert [process.wait() for process in both] == [EXIT_CODE] * 2, both[0].text()[-3000:]


@BOTH
def test_scores_that_fail_on_one_process_end_both_with_a_checkpoint(arguments, tmp_path, kind):
    def unavailable(inner, images, prompts):
        from reward_plugin.errors import ServerUnavailable

        failed: Future[object] = Future()
        failed.set_exception(ServerUnavailable("http://rewards gave no usable answer"))
        return failed

    run = tmp_path / "run"
    # Validation of step 0 takes two of the process's chunks, an iteration four.
    options = {**ENDLESS, "validation.every": 1, "sampler.chunk": 1}
    before = fail_on_the_second(unavailable, after=8)
    both = pair(kind, arguments(run_dir=run, **options), tmp_path / "logs", before)
    assert [process.wait() for process in both] == [1, 1]
    assert "Traceback" not in both[0].text() + both[1].text()
    (state,) = (run / "checkpoints").glob("*/state.json")
    done = json.loads(state.read_text())["iteration"]
    assert done == len(rows(run)) == 1
    assert (
        f"http://rewards gave no usable answer\nStopped after iteration {done}; the state" in both[0].text()
    )
    assert main(arguments(run_dir=run, **{**options, "iterations": done + 1})) == 0


@BOTH
def test_a_velocity_that_is_not_finite_on_one_process_ends_both_and_is_located(arguments, tmp_path, kind):
    def spoil_the_second() -> None:
        import torch

        from flow_grpo.policy.flux import FluxPolicy

        velocity, last = FluxPolicy.velocity, 0.7

        def spoilt(self, x, sigma, condition):
            made = velocity(self, x, sigma, condition)
            late = os.environ["RANK"] == "1" and float(sigma.min()) < last
            return made * torch.tensor([float("nan"), *[1.0] * (len(x) - 1)]).view(-1, 1, 1) if late else made

        FluxPolicy.velocity = spoilt  # type: ignore[method-assign]

    run = tmp_path / "run"
    options = {**ENDLESS, "prompts.validation": "null", "sampler.chunk": 2}
    command = arguments(run_dir=run, **options)
    both = pair(kind, command, tmp_path / "logs", spoil_the_second)
    assert [process.wait() for process in both] == [1, 1]
    assert "Traceback" not in both[0].text() + both[1].text()
    replay = json.loads((run / "replay.json").read_text())
    found = re.search(r"not finite at sampling step (\d) of 0 to 3, in 1 pictures", both[0].text())
    assert found is not None and int(found[1]) > 0, both[0].text()[-3000:]
    assert replay["iteration"] == 1 and "replay.json" in both[0].text()
    second = [one for one in replay["pictures"] if one["process"] == 1 and one["member"] == 0]
    assert f"(index {second[0]['index']}), member 0, seed {second[0]['seed']}" in both[0].text()


@BOTH
def test_a_loss_that_is_not_finite_on_one_process_takes_no_step_on_either(arguments, tmp_path, kind):
    def spoil_the_second() -> None:
        update: Any = import_module("flow_grpo.update")
        objective = update.objective

        def spoilt(*given):
            values, metrics = objective(*given)
            return values * (float("nan") if os.environ["RANK"] == "1" else 1), metrics

        update.objective = spoilt

    run = tmp_path / "run"
    options = {"prompts.validation": "null", "optimizer.micro_batch": 4}
    command = arguments(run_dir=run, **options)
    both = pair(kind, command, tmp_path / "logs", spoil_the_second)
    assert [process.wait() for process in both] == [1, 1]
    assert re.search(
        r"the loss is not finite for prompt rows \[0\] of process 1 at sigma [\d., ]+, micro-batch 1 of \d, "
        r"in iteration 1, update 1 of 1 \(optimizer step 1\); the weights are those before it",
        both[0].text(),
    ), both[0].text()[-3000:]
    assert (run / "replay.json").is_file() and "Traceback" not in both[0].text() + both[1].text()


@BOTH
def test_a_process_that_is_killed_ends_the_other_which_says_so(arguments, tmp_path, kind):
    run = tmp_path / "run"
    both = pair(kind, arguments(run_dir=run, **ENDLESS), tmp_path / "logs")
    both[1].until(lambda: len(rows(run)) >= 3)
    both[1].send(signal.SIGKILL)
    assert both[0].wait() == 1
    said = re.search(
        r"error: process 0 lost another process during iteration (\d+): .*\nThe newest state is in (\S+)\. ",
        both[0].text(),
    )
    assert said is not None, both[0].text()[-3000:]
    stored = json.loads((run / "checkpoints" / said[2].rpartition("/")[2] / "state.json").read_text())
    # Of an optimizer that is shared out the last checkpoint is all there is.
    assert int(said[1]) - stored["iteration"] <= (1 if kind == "fsdp2" else ENDLESS["checkpoint.every"])
