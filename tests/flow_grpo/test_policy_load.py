"""Any FluxPipeline folder loads, and one that lacks something is named with what it lacks; dtypes stay."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LoraConfig
from flow_grpo.sample import sample

WEIGHTS = "diffusion_pytorch_model.safetensors"


def build(path: Path, **options) -> FluxPolicy:
    settings = {"dtype": "float32", "height": 32, "width": 32, "max_sequence_length": 32, **options}
    return FluxPolicy(ModelConfig(path=str(path), lora=LoraConfig(rank=4, alpha=8), **settings))


def predict(policy: FluxPolicy) -> torch.Tensor:
    with torch.no_grad():
        return policy.velocity(policy.initial_noise([1]), torch.tensor([0.7]), policy.encode(["a red apple"]))


@pytest.fixture
def copied(flux_path, tmp_path) -> Path:
    return shutil.copytree(flux_path, tmp_path / "model")


def shard(path: Path) -> list[Path]:
    """Store the transformer in several files, as large ones are."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel.from_pretrained(str(path), subfolder="transformer")
    shutil.rmtree(path / "transformer")
    model.save_pretrained(path / "transformer", max_shard_size="20KB")
    return sorted((path / "transformer").glob("*.safetensors"))


def test_sharded_weights_are_the_same_model(flux_path, copied):
    assert len(shard(copied)) > 2
    torch.testing.assert_close(predict(build(copied)), predict(build(flux_path)), rtol=1e-4, atol=1e-5)


def test_a_missing_shard_is_named(copied):
    gone = shard(copied)[1]
    gone.unlink()
    with pytest.raises(
        ValueError, match=rf"model\.path .* cannot be loaded .*transformer/{gone.name} is miss"
    ):
        build(copied)


@pytest.mark.parametrize(
    "piece, message",
    [
        ("transformer", r"transformer/ \(FluxTransformer2DModel\) is missing"),
        ("text_encoder_2", r"text_encoder_2/ \(T5EncoderModel\) is missing"),
        ("tokenizer", r"tokenizer/ \(CLIPTokenizer\) is missing"),
        ("vae/config.json", r"vae/config\.json is missing"),
        (f"transformer/{WEIGHTS}", r"transformer/\*\.safetensors is missing \(weights in other formats"),
    ],
)
@pytest.mark.parametrize("cache", [False, True])
def test_a_missing_piece_is_named(copied, piece, message, cache, tmp_path):
    target = copied / piece
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match=message) as caught:
        build(copied, text_cache=str(tmp_path / "cache") if cache else None)
    assert "copy the model again" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_a_torn_weight_file_is_one_error_of_one_line(copied, part):
    file = next((copied / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.path .* cannot be loaded as a FluxPipeline") as caught:
        build(copied)
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_is_not_at_hand_is_one_error():
    with pytest.raises(ValueError, match=r"model\.path 'nobody/nothing'"):
        build(Path("nobody/nothing"))


def test_a_model_without_guidance_embedding_and_with_a_constant_shift_is_sampled_as_diffusers_does(copied):
    """FLUX.1-schnell is of this kind."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    config = FluxTransformer2DModel.load_config(str(copied / "transformer"))
    shutil.rmtree(copied / "transformer")
    torch.manual_seed(0)
    model = FluxTransformer2DModel.from_config({**config, "guidance_embeds": False})
    model.save_pretrained(copied / "transformer")
    scheduler = copied / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps({**settings, "use_dynamic_shifting": False, "shift": 1.0}))

    policy = build(copied)
    condition = policy.encode(["grass"])
    made = sample(lambda x, s: policy.velocity(x, s, condition), policy.initial_noise([11]), policy.sigmas(4))
    pipe = FluxPipeline.from_pretrained(str(copied))
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 32, "width": 32, "num_inference_steps": 4, "max_sequence_length": 32}
    generator = torch.Generator().manual_seed(11)
    latents = pipe("grass", output_type="latent", generator=generator, **options).images
    torch.testing.assert_close(made.final, latents, rtol=1e-5, atol=1e-5)


def test_a_negative_prompt_is_refused_where_it_has_no_effect(flux_path):
    with pytest.raises(
        ValueError, match=r"model\.negative_prompt is 'grey', but FLUX\.1 has no classifier-fr"
    ):
        build(flux_path, negative_prompt="grey")


def test_activations_of_a_bf16_base_stay_bf16_and_the_adapters_states_are_float32(flux_path):
    policy = build(flux_path, dtype="bfloat16")
    seen: dict[str, set[torch.dtype]] = {}

    def note(name: str):
        def hook(_, __, output) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            seen.setdefault(name, set()).update(o.dtype for o in outputs if isinstance(o, torch.Tensor))

        return hook

    for name, module in policy.module.named_modules():
        module.register_forward_hook(note(name))
    optimizer = torch.optim.AdamW(policy.trainable.values(), lr=1e-3)
    policy.velocity(policy.initial_noise([1]), torch.tensor([0.7]), policy.encode(["grass"])).sum().backward()
    optimizer.step()
    outside = {name for name in seen if "lora_" not in name}
    # Positions and the sines of the timestep are float32 in diffusers itself.
    upcast = {n for n in outside if seen[n] != {torch.bfloat16}} - {"pos_embed"}
    assert not {name for name in upcast if "time_proj" not in name}
    adapted = {name.split(".lora_")[0] for name in policy.trainable}
    assert adapted <= outside and all(seen[name] == {torch.bfloat16} for name in adapted)
    for value in policy.trainable.values():
        states = optimizer.state[value].values()
        assert value.grad is not None and value.dtype == value.grad.dtype == torch.float32
        assert all(state.dtype == torch.float32 for state in states)
