"""LoRA files: what is read, written, converted and fused is what diffusers and peft make of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flow_grpo.cli import parse
from flow_grpo.lora import main
from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LoraConfig
from flow_grpo.policy.lora_files import LORA_FILE, PEFT_CONFIG, PEFT_FILE, read_adapter

LAYERS = ["attn.to_v", "ff.net.2"]


def build(path: Path, **lora) -> FluxPolicy:
    settings = {"rank": 4, "alpha": 8, "targets": LAYERS, **lora}
    size: dict[str, Any] = {"height": 32, "width": 32, "max_sequence_length": 32}
    return FluxPolicy(ModelConfig(path=str(path), dtype="float32", lora=LoraConfig(**settings), **size))


@pytest.fixture(scope="module")
def trained(flux_path) -> FluxPolicy:
    """A policy whose adapters differ from 0, as after training; alpha / rank is 2."""
    policy = build(flux_path)
    generator = torch.Generator().manual_seed(0)
    for value in policy.trainable.values():
        value.data.add_(0.3 * torch.randn(value.shape, generator=generator))
    return policy


def predict(policy: FluxPolicy) -> torch.Tensor:
    with torch.no_grad():
        return policy.velocity(policy.initial_noise([1]), torch.tensor([0.7]), policy.encode(["a red apple"]))


def forward(transformer: torch.nn.Module, policy: FluxPolicy) -> torch.Tensor:
    """What another transformer of the same shape predicts for the input of `predict`."""
    own, policy.module = policy.module, transformer
    try:
        return predict(policy)
    finally:
        policy.module = own


def base_transformer(path: Path, **options) -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel.from_pretrained(str(path), subfolder="transformer", **options)


def test_peft_loads_the_export_as_the_trained_policy(trained, flux_path, tmp_path):
    from peft import PeftModel

    policy = build(flux_path, export_peft=True)
    policy.export(tmp_path, trained.trainable)
    assert (tmp_path / LORA_FILE).is_file()
    loaded = PeftModel.from_pretrained(base_transformer(flux_path), str(tmp_path / "peft"))
    assert (forward(loaded, trained) - predict(trained)).abs().max() < 1e-5


def test_diffusers_loads_what_was_converted_to_peft_and_back(trained, flux_path, tmp_path):
    from diffusers import FluxPipeline

    trained.export(tmp_path / "run", trained.trainable)
    for kind, source, out in (("peft", "run", "peft"), ("diffusers", "peft", "back")):
        command = ["convert", "--lora", tmp_path / source, "--format", kind, "--out", tmp_path / out]
        assert main(list(map(str, command))) == 0
    assert load_file(tmp_path / "back" / LORA_FILE).keys() == load_file(tmp_path / "run" / LORA_FILE).keys()
    pipe = FluxPipeline.from_pretrained(str(flux_path))
    pipe.load_lora_weights(str(tmp_path / "back"))
    assert (forward(pipe.transformer, trained) - predict(trained)).abs().max() < 1e-5


@pytest.mark.parametrize("shards", [False, True])
def test_a_fused_folder_is_the_base_with_the_adapter(trained, flux_path, tmp_path, shards):
    import shutil

    model = flux_path
    if shards:
        model = shutil.copytree(flux_path, tmp_path / "model")
        shutil.rmtree(model / "transformer")
        base_transformer(flux_path).save_pretrained(model / "transformer", max_shard_size="20KB")
        assert len(list((model / "transformer").glob("*.safetensors"))) > 2
    trained.export(tmp_path / "run", trained.trainable)
    command = ["fuse", "--lora", tmp_path / "run", "--model", model, "--out", tmp_path / "fused"]
    assert main(list(map(str, command))) == 0
    fused, base = build(tmp_path / "fused"), build(flux_path)
    assert (predict(fused) - predict(trained)).abs().max() < 1e-5
    assert (predict(base) - predict(trained)).abs().max() > 1e-3
    assert main(list(map(str, command))) == 1, "an existing folder must stay as it is"


def test_fusing_a_share_scales_the_change(trained, flux_path, tmp_path):
    trained.export(tmp_path / "run", trained.trainable)
    command = [
        "fuse",
        "--lora",
        tmp_path / "run",
        "--model",
        flux_path,
        "--out",
        tmp_path / "half",
        "--scale",
    ]
    assert main([*map(str, command), "0.5"]) == 0
    name = "transformer_blocks.0.attn.to_v.weight"
    file = Path("transformer") / "diffusion_pytorch_model.safetensors"
    base, half = (load_file(folder / file)[name] for folder in (flux_path, tmp_path / "half"))
    a, b = read_adapter(tmp_path / "run").layers[name.removesuffix(".weight")]
    torch.testing.assert_close(half - base, 0.5 * b @ a)


def test_an_adapter_that_does_not_fit_is_not_fused(trained, flux_path, tmp_path, capsys):
    file = trained.export(tmp_path / "run", trained.trainable)
    tensors = load_file(file)
    renamed = {key.replace("blocks.0", "blocks.7"): value for key, value in tensors.items()}
    narrow = {k: v[:, :-1].contiguous() if "lora_A" in k else v for k, v in tensors.items()}
    for name, changed, message in (("other", renamed, "no layer"), ("narrow", narrow, "of another model")):
        (tmp_path / name).mkdir()
        save_file(changed, tmp_path / name / LORA_FILE)
        out = tmp_path / f"{name}_out"
        given = ["fuse", "--lora", tmp_path / name, "--model", flux_path, "--out", out]
        assert main(list(map(str, given))) == 1 and message in capsys.readouterr().err
        assert not out.exists() and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("kind", ["diffusers", "peft"])
@pytest.mark.parametrize("alpha", [8, 3])
def test_training_goes_on_from_an_adapter_whatever_its_scale(trained, flux_path, tmp_path, kind, alpha):
    folder = tmp_path / "run"
    build(flux_path, export_peft=True).export(folder, trained.trainable)
    start = folder if kind == "diffusers" else folder / "peft"
    policy = build(flux_path, init=str(start), alpha=alpha, targets=None)
    assert policy.trainable.keys() == trained.trainable.keys()
    assert (predict(policy) - predict(trained)).abs().max() < 1e-5
    assert all(v.dtype == torch.float32 and v.requires_grad for v in policy.trainable.values())
    again = policy.export(tmp_path / "again", policy.trainable)
    for key, value in load_file(again).items():
        torch.testing.assert_close(value, load_file(folder / LORA_FILE)[key])


def test_an_adapter_saved_by_diffusers_with_its_alpha_is_read_with_it(trained, flux_path, tmp_path):
    """diffusers puts alpha into the file's metadata, older writers into tensors named alpha."""
    from diffusers import FluxPipeline
    from peft import get_peft_model_state_dict

    transformer = trained.pipeline.transformer
    state = get_peft_model_state_dict(transformer)
    metadata = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS}
    FluxPipeline.save_lora_weights(
        str(tmp_path / "metadata"), transformer_lora_layers=state, transformer_lora_adapter_metadata=metadata
    )
    raw = load_file(tmp_path / "metadata" / LORA_FILE)
    layers = {key.split(".lora_")[0] for key in raw}
    (tmp_path / "tensors").mkdir()
    save_file(
        raw | {f"{layer}.alpha": torch.tensor(8.0) for layer in layers}, tmp_path / "tensors" / LORA_FILE
    )
    for name in ("metadata", "tensors"):
        policy = build(flux_path, init=str(tmp_path / name), targets=None)
        assert (predict(policy) - predict(trained)).abs().max() < 1e-5, name
        assert read_adapter(tmp_path / name).alpha == "8"


def test_peft_scales_are_read_as_peft_applies_them(flux_path, tmp_path):
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    cases: list[dict[str, Any]] = [{"use_rslora": True}, {"alpha_pattern": {"attn.to_v": 1}}, {}]
    for number, options in enumerate(cases):
        settings = PeftConfig(r=4, lora_alpha=6, target_modules=LAYERS, init_lora_weights=False, **options)
        model = get_peft_model(base_transformer(flux_path), settings)
        model.save_pretrained(str(tmp_path / str(number)))
        for layer, (a, b) in read_adapter(tmp_path / str(number)).layers.items():
            expected = model.base_model.model.get_submodule(layer).get_delta_weight("default")
            torch.testing.assert_close(b @ a, expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 8}, r"model\.lora\.rank is 8, but .* has rank 4; set model\.lora\.rank: 4"),
        ({"targets": ["attn.to_k"]}, r"leave out model\.lora\.targets"),
        ({"init": "gausian"}, r"model\.lora\.init is 'gausian', neither gaussian nor kaiming"),
    ],
)
def test_a_start_that_does_not_fit_the_configuration_is_refused(
    trained, flux_path, tmp_path, options, message
):
    trained.export(tmp_path, trained.trainable)
    with pytest.raises(ValueError, match=message):
        build(flux_path, **{"init": str(tmp_path), "targets": None, **options})


def test_a_start_that_is_not_there_is_refused_before_anything_is_loaded(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(arguments(model__lora__init=tmp_path / "nowhere"))
    assert "model.lora.init" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: {k.replace("blocks.0", "blocks.9"): v for k, v in t.items()}, "of another model|match no"),
        (lambda t: {k.replace("transformer.", "text_encoder.", 1): v for k, v in t.items()}, "is not transf"),
        (lambda t: {k: v for k, v in t.items() if "lora_A" in k}, "do not fit each other"),
        (lambda t: {k: v[:-1].contiguous() if "lora_B" in k else v for k, v in t.items()}, "another model"),
        (lambda t: {"x.alpha": torch.ones(())}, "holds no lora_A"),
    ],
)
def test_a_start_of_another_model_is_refused(trained, flux_path, tmp_path, change, message):
    file = trained.export(tmp_path, trained.trainable)
    save_file(change(load_file(file)), file)
    with pytest.raises(ValueError, match=message):
        build(flux_path, init=str(tmp_path), targets=None)


def test_a_peft_file_without_its_configuration_is_refused(trained, flux_path, tmp_path):
    build(flux_path, export_peft=True).export(tmp_path, trained.trainable)
    config = tmp_path / "peft" / PEFT_CONFIG
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(ValueError, match="DoRA"):
        read_adapter(tmp_path / "peft" / PEFT_FILE)
    config.unlink()
    with pytest.raises(ValueError, match=r"adapter_config\.json, which has its scale"):
        read_adapter(tmp_path / "peft")


def test_info_says_what_an_adapter_is(trained, tmp_path, capsys):
    trained.export(tmp_path, trained.trainable)
    assert main(["info", "--lora", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    count = sum(value.numel() for value in trained.trainable.values())
    assert "rank  4\n" in text and f"parameters  {count:,}\n" in text and "format  diffusers\n" in text
    norm = sum(float((b @ a).norm()) ** 2 for a, b in read_adapter(tmp_path).layers.values()) ** 0.5
    assert f"change  norm {norm:.4g}, the most" in text
    assert main(["info", "--lora", str(tmp_path / "nowhere")]) == 1
    assert "holds no adapter" in capsys.readouterr().err
