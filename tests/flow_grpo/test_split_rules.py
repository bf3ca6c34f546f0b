"""What a launch may ask for, how work is kept in step, and which parts of a model are fetched as one."""

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin

from flow_grpo.pace import APART, InStep
from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LoraConfig
from flow_grpo.signals import StopRequested, listening
from flow_grpo.split import blocks, check_kind
from flow_grpo.zero import check_plugin, check_version


def config(path) -> ModelConfig:
    lora = LoraConfig(rank=4)
    return ModelConfig(str(path), "float32", height=32, width=32, max_sequence_length=32, lora=lora)


def test_what_does_not_split_is_taken_as_it_is():
    for kind in ("NO", "MULTI_GPU", "MULTI_CPU"):  # raises nothing
        check_kind(kind)


@pytest.mark.parametrize("kind", ["MEGATRON_LM", "XLA"])
def test_other_launchers_are_refused_with_what_to_use(kind):
    with pytest.raises(ValueError, match=rf"distributed_type is {kind}; use MULTI_GPU, FSDP or DEEPSPEED"):
        check_kind(kind)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fsdp_version": 1}, r"fsdp_version is 1: .* use 2"),
        ({"activation_checkpointing": True}, r"fsdp_activation_checkpointing is true; use model\.gradient"),
        ({"cpu_offload": True}, r"fsdp_offload_params is true; .* set it to false"),
    ],
)
def test_what_the_base_cannot_be_split_by_is_named(options, message):
    check_kind("FSDP", FullyShardedDataParallelPlugin(fsdp_version=2))
    with pytest.raises(ValueError, match=message):
        check_kind("FSDP", FullyShardedDataParallelPlugin(**{"fsdp_version": 2, **options}))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"zero_optimization": {"stage": 3}}, r"zero_stage is 3; use 2 .*FSDP2"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            r"offload_optimizer_device is cpu; .*none",
        ),
        ({"bf16": {"enabled": True}}, r"bf16 is enabled, which would round the adapters"),
    ],
)
def test_what_deepspeed_would_change_is_named(options, message):
    whole: dict[str, Any] = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}
    whole |= {"bf16": {"enabled": False}, "fp16": {"enabled": "auto"}}
    check_plugin(SimpleNamespace(deepspeed_config=whole))
    with pytest.raises(ValueError, match=message):
        check_plugin(SimpleNamespace(deepspeed_config={**whole, **options}))


def test_a_deepspeed_that_takes_other_steps_is_refused():
    for version in ("0.19.0", "0.19.8"):
        check_version(version)
    with pytest.raises(
        ValueError, match=r'deepspeed is 0\.18\.9: from 0\.19 on .*pip install "deepspeed>=0\.19'
    ):
        check_version("0.18.9")


def test_a_models_own_blocks_are_fetched_as_one_and_unknown_ones_named(flux_path):
    module: Any = FluxPolicy(config(flux_path), whole=False).module
    found = blocks(module, module._no_split_modules)
    assert found == [*module.transformer_blocks, *module.single_transformer_blocks]
    with pytest.raises(ValueError, match=r"layer_cls_to_wrap names LlamaDecoderLayer, which the model"):
        blocks(module, ["FluxTransformerBlock", "LlamaDecoderLayer"])


def test_a_transformer_that_is_to_be_split_is_not_put_on_the_device(flux_path):
    places = {}
    for whole in (True, False):
        pipeline = FluxPolicy(config(flux_path), "meta", whole=whole).pipeline
        for name in ("transformer", "vae", "text_encoder_2"):
            places[name, whole] = next(getattr(pipeline, name).parameters()).device.type
    assert {part for part, place in places.items() if place == "cpu"} == {("transformer", False)}
    assert set(places.values()) == {"cpu", "meta"}


def test_apart_a_signal_interrupts_a_rollout_anywhere_and_in_step_only_what_makes_no_forward_pass():
    with listening():
        with pytest.raises(StopRequested), APART.rollout():
            os.kill(os.getpid(), 15)
            time.sleep(60)
    pace, got = InStep(), list[str]()
    with listening():
        with pace.rollout():
            os.kill(os.getpid(), 15)
            got.append("on")
            with pytest.raises(StopRequested, match="SIGTERM"):
                pace.before_chunk()
            with pytest.raises(StopRequested, match="SIGTERM"), pace.waiting():
                got.append("waited")
    assert got == ["on"]


def test_alone_in_step_nothing_is_padded():
    assert APART.padded([1, 2]) == InStep().padded([1, 2]) == [1, 2]
    assert InStep().anywhere(True) and not InStep().anywhere(False)
