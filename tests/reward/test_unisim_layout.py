"""UniSim's published layout on tiny CLIP models that PEFT itself has wrapped."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from reward_plugin.errors import CheckpointError, ConfigError
from reward_plugin.scorers.weights import to_safetensors
from reward_plugin.unisim.adapter import merge_adapter
from reward_plugin.unisim.layout import (
    TARGETS,
    apply,
    apply_file,
    merge,
    published_weights,
    read_published,
    write_published,
)
from tests.reward.published import save_clip

QUERY = "vision_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> CLIPModel:
    return save_clip(tmp_path_factory.mktemp("clip"))


def perturb(model: torch.nn.Module) -> None:
    """Train, as far as a test needs it: PEFT's B is zero at first, and would hide a wrong merge."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A" in name:  # which PEFT draws
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
            elif "lora_B" in name or "visual_projection" in name:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)


def tuned(base: CLIPModel, rank: int = 16, **options: Any) -> CLIPModel:
    """A copy whose vision model PEFT has wrapped, as the published code does it, and that has learnt."""
    model = copy.deepcopy(base)
    config = LoraConfig(
        r=rank, lora_alpha=32, lora_dropout=0.2, target_modules=list(TARGETS), bias="none", **options
    )
    model.vision_model = get_peft_model(model.vision_model, config)
    perturb(model)
    return model.eval()


def tuned_whole(base: CLIPModel, **options: Any) -> Any:
    """The same with PEFT around all of the model, and the projection as a module of its own."""
    targets = rf"vision_model\..*\.({'|'.join(TARGETS)})"
    config = LoraConfig(
        **{"r": 16, "lora_alpha": 32, "target_modules": targets, "modules_to_save": ["visual_projection"]}
        | options
    )
    model = get_peft_model(copy.deepcopy(base), config)
    perturb(model)
    return model.eval()


def images(model: Any) -> np.ndarray:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output).numpy()


def whole_images(model: Any) -> np.ndarray:
    return images(model.base_model.model)


def test_names_are_those_of_the_published_model(base: CLIPModel):
    assert set(published_weights(tuned(base))) == {
        f"module.{name}" for name in tuned(base).state_dict() if name != "logit_scale"
    }
    names = published_weights(tuned(base))
    assert f"module.vision_model.base_model.model.{QUERY[13:]}.lora_A.default.weight" in names
    assert "module.vision_model.base_model.model.pre_layrnorm.weight" in names
    assert "module.text_model.final_layer_norm.weight" in names


@pytest.mark.parametrize(("wrap", "embed"), [(tuned, images), (tuned_whole, whole_images)])
def test_a_written_file_read_back_computes_what_peft_computes(
    wrap: Callable[..., Any], embed: Callable[[Any], np.ndarray], base: CLIPModel, tmp_path: Path
):
    model = wrap(base)
    write_published(tmp_path / "epoch_1.pt", model, 32, epoch=1)
    merged = apply_file(copy.deepcopy(base), tmp_path / "epoch_1.pt")
    assert type(merged) is CLIPModel and merged.state_dict().keys() == base.state_dict().keys()
    np.testing.assert_allclose(images(merged), embed(model), atol=1e-5)
    assert np.abs(images(merged) - images(base)).max() > 0.1
    assert torch.equal(merged.logit_scale, base.logit_scale)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_1.pt"]


def test_both_ways_to_wrap_give_the_same_names(base: CLIPModel):
    assert published_weights(tuned(base)).keys() == published_weights(tuned_whole(base)).keys()


def test_the_published_code_would_load_what_is_written(base: CLIPModel, tmp_path: Path):
    model = tuned(base)
    write_published(tmp_path / "x.pt", model, 32)
    content = torch.load(tmp_path / "x.pt", weights_only=True)["state_dict"]
    fresh = tuned(base)
    del fresh.logit_scale  # which the published class does not have as a weight
    fresh.load_state_dict({name.replace("module.", ""): tensor for name, tensor in content.items()})
    np.testing.assert_array_equal(images(fresh), images(model))


def test_merging_is_the_closed_form():
    weight, down, up = torch.eye(3), torch.tensor([[1.0, 2, 3], [0, 1, 0]]), torch.ones(3, 2)
    layer = {"a.base_layer.weight": weight, "a.base_layer.bias": torch.ones(3)}
    adapter = {"a.lora_A.default.weight": down, "a.lora_B.default.weight": up}
    merged = merge({**layer, **adapter, "b.weight": up}, alpha=4)
    np.testing.assert_array_equal(merged["a.weight"], np.eye(3) + 4 / 2 * np.array([[1, 3, 3]] * 3))
    assert merged.keys() == {"a.weight", "a.bias", "b.weight"}


def test_without_an_alpha_only_the_published_rank_is_merged(base: CLIPModel, tmp_path: Path):
    bare = {"state_dict": published_weights(tuned(base))}
    torch.save(bare, tmp_path / "published.pt")
    merged = apply_file(copy.deepcopy(base), tmp_path / "published.pt")
    np.testing.assert_allclose(images(merged), images(tuned(base)), atol=1e-5)
    model = tuned(base, rank=4)
    torch.save({"state_dict": published_weights(model)}, tmp_path / "small.pt")
    with pytest.raises(ConfigError, match=r"small.pt: adapters of rank 4, and no alpha: 32 is published"):
        apply_file(copy.deepcopy(base), tmp_path / "small.pt")
    np.testing.assert_allclose(
        images(apply_file(copy.deepcopy(base), tmp_path / "small.pt", alpha=32)), images(model), atol=1e-5
    )


def test_the_alpha_in_a_file_survives_its_conversion(base: CLIPModel, tmp_path: Path):
    model = tuned(base, rank=4)
    write_published(tmp_path / "x.pt", model, 32)
    converted = to_safetensors(tmp_path / "x.pt")
    assert read_published(converted)[1] == 32
    np.testing.assert_allclose(images(apply_file(copy.deepcopy(base), converted)), images(model), atol=1e-5)


@pytest.mark.parametrize(
    ("wrap", "embed"),
    [
        (lambda base: tuned(base).vision_model, None),
        (tuned_whole, whole_images),
        (lambda base: tuned_whole(base, use_rslora=True, r=4), whole_images),
        (lambda base: tuned_whole(base, rank_pattern={"fc1": 3}), whole_images),
    ],
    ids=["vision model", "whole", "rslora", "rank_pattern"],
)
def test_an_adapter_folder_computes_what_peft_computes(
    wrap: Callable[[CLIPModel], Any],
    embed: Callable[[Any], np.ndarray] | None,
    base: CLIPModel,
    tmp_path: Path,
):
    model = wrap(base)
    model.save_pretrained(tmp_path)
    merged = apply(copy.deepcopy(base), merge_adapter(base.state_dict(), tmp_path), tmp_path)
    if embed is None:  # the folder holds the vision model's adapter; the projection is the base's
        expected = copy.deepcopy(base)
        expected.vision_model = model
        np.testing.assert_allclose(images(merged), images(expected), atol=1e-5)
    else:
        np.testing.assert_allclose(images(merged), embed(model), atol=1e-5)
    assert np.abs(images(merged) - images(base)).max() > 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text_projection.weight": None}, "1 weights missing, first text_projection.weight"),
        ({"extra.weight": (2,)}, "1 weights not part of a CLIPModel, first extra.weight"),
        ({"visual_projection.weight": (8, 32)}, r"first visual_projection.weight \(8, 32\) instead of \(16,"),
        ({f"{QUERY}.lora_A.default.weight": None}, "lora_A.default.weight is missing, the others of"),
        ({f"{QUERY}.base_layer.weight": None}, "base_layer.weight is missing, the others of"),
        ({f"{QUERY}.lora_B.default.weight": (32, 5)}, r"shapes \(32, 5\) and \(16, 32\), which do not"),
        ({f"{QUERY}.base_layer.bias": None}, f"1 weights missing, first {QUERY}.bias"),
    ],
)
def test_a_published_file_is_read_strictly(
    change: dict[str, tuple[int, ...] | None], reason: str, base: CLIPModel, tmp_path: Path
):
    weights = {name.replace("base_model.model.", ""): w for name, w in published_weights(tuned(base)).items()}
    for name, shape in change.items():
        weights.pop(f"module.{name}", None)
        if shape:
            weights[f"module.{name}"] = torch.ones(shape)
    torch.save({"state_dict": weights}, tmp_path / "x.pt")
    untouched = copy.deepcopy(base)
    with pytest.raises(CheckpointError, match=rf"x.pt: .*{reason}"):
        apply_file(untouched, tmp_path / "x.pt")
    np.testing.assert_array_equal(images(untouched), images(base))


def test_constants_of_older_versions_are_no_fault(base: CLIPModel, tmp_path: Path):
    weights = published_weights(tuned(base))
    weights["module.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save({"state_dict": weights, "optimizer": {"state": {0: torch.ones(3)}}}, tmp_path / "x.pt")
    np.testing.assert_allclose(
        images(apply_file(copy.deepcopy(base), tmp_path / "x.pt")), images(tuned(base)), atol=1e-5
    )


class Dangerous:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"state_dict": {}, "args": Dangerous()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt: damaged, or not a file of weights alone"):
        read_published(tmp_path / "x.pt")
    assert capsys.readouterr().out == ""
    (tmp_path / "cut.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r"cut.pt: damaged"):
        read_published(tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match=r"none.pt: no such file"):
        read_published(tmp_path / "none.pt")
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {"lora_alpha": "many"})
    with pytest.raises(CheckpointError, match=r"x.safetensors: lora_alpha is 'many'"):
        read_published(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target_modules": ["q_proj"]}, r"text_model.*on layers of the vision model alone"),
        ({"use_dora": True}, "made of lora_A and lora_B"),
    ],
)
def test_an_adapter_without_published_names_is_not_written(
    options: dict[str, Any], reason: str, base: CLIPModel, tmp_path: Path
):
    with pytest.raises(ConfigError, match=reason):
        write_published(tmp_path / "x.pt", tuned_whole(base, **options), 32)
    assert not list(tmp_path.iterdir())


def test_adapter_folders_are_read_strictly(base: CLIPModel, tmp_path: Path):
    def merged(**options: Any) -> None:
        tuned_whole(base, **options).save_pretrained(tmp_path)
        merge_adapter(base.state_dict(), tmp_path)

    with pytest.raises(CheckpointError, match=r"adapter_config.json: missing; an adapter folder has one"):
        merge_adapter(base.state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match=r"use_dora is True; only plain LoRA can be merged here"):
        merged(use_dora=True)
    with pytest.raises(CheckpointError, match="bias is 'all'; only plain LoRA"):
        merged(bias="all")
    merged()
    file = tmp_path / "adapter_model.safetensors"
    foreign = {name.replace("layers.1", "layers.7"): tensor for name, tensor in load_file(file).items()}
    save_file(foreign, file)
    with pytest.raises(CheckpointError, match=r"layers.7.*fits no weight of the base; was it trained on"):
        merge_adapter(base.state_dict(), tmp_path)
    file.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: damaged"):
        merge_adapter(base.state_dict(), tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"never from a pickled adapter_model.bin"):
        merge_adapter(base.state_dict(), tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(CheckpointError, match="peft_type is 'IA3'; only LORA"):
        merge_adapter(base.state_dict(), tmp_path)
