"""What a checkpoint folder may be, what it must hold, and one clear error for each thing that is wrong."""

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file

from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.errors import CheckpointError
from reward_plugin.internvl import RatingEngine
from reward_plugin.prompting import ARTIMUSE_QUESTIONS, UNIPERCEPT_QUESTIONS
from reward_plugin.source import download_error
from tests.reward.golden import CHECKPOINT, EXPECTED, FOLDER, TOLERANCE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def shard(folder: Path) -> None:
    """Split the weights over two files with an index, as large checkpoints are published."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    halves = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def nativise(folder: Path, flat: bool) -> None:
    """Make a published checkpoint a native one, under in-memory names or those of the `-hf` repositories."""
    checkpoint = load_checkpoint(folder)
    shutil.rmtree(folder)
    checkpoint.model.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    if not flat:
        return
    file, weights = folder / "model.safetensors", {}
    for name, tensor in load_file(file).items():
        name = name.replace("model.language_model.", "language_model.model.")
        name = name.replace("lm_head.", "language_model.lm_head.")
        weights[re.sub(r"^model\.(vision_tower|multi_modal_projector)", r"\1", name)] = tensor
    assert {name.split(".")[0] for name in weights} == {
        "vision_tower",
        "multi_modal_projector",
        "language_model",
    }
    save_file(weights, folder / "flat", {"format": "pt"})
    (folder / "flat").replace(file)


@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "shards"])
@pytest.mark.parametrize("layout", ["published", "native", "native-flat"])
def test_every_layout_reproduces_the_published_scores(folder: Path, layout: str, sharded: bool):
    if layout != "published":
        nativise(folder, flat=layout == "native-flat")
    if sharded:
        shard(folder)
    engine = RatingEngine(load_checkpoint(folder), {**UNIPERCEPT_QUESTIONS, **ARTIMUSE_QUESTIONS})
    images = [PIL.Image.open(FOLDER / "images" / name).convert("RGB") for name in EXPECTED["scores"]]
    values = [[*row.values(), EXPECTED["artimuse_scores"][name]] for name, row in EXPECTED["scores"].items()]
    np.testing.assert_allclose(engine.rate(images), values, rtol=0, atol=TOLERANCE)


def test_no_remote_code_runs(folder: Path, tmp_path: Path):
    trace = tmp_path / "ran"
    for name in ("configuration_internvl_chat", "modeling_internvl_chat", "tokenization_internvl_chat"):
        (folder / f"{name}.py").write_text(f"open({str(trace)!r}, 'w')")
    load_checkpoint(folder)
    assert "auto_map" in (folder / "config.json").read_text() and not trace.exists()


def test_the_scaled_rotation_of_the_published_config_changes_nothing_at_this_length(folder: Path):
    scaling = {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}
    plain = load_checkpoint(folder).model.model.language_model.rotary_emb.inv_freq
    edit(folder / "config.json", lambda config: config["llm_config"].update(rope_scaling=scaling))
    scaled = load_checkpoint(folder).model.model.language_model.rotary_emb
    assert scaled.rope_type == "dynamic"
    torch.testing.assert_close(scaled.inv_freq, plain, rtol=0, atol=0)


def test_a_missing_shard_is_named(folder: Path):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: missing; .*lists 2 shards"):
        load_checkpoint(folder)


def test_a_missing_shard_of_the_native_layout_is_named(tmp_path: Path):
    checkpoint = load_checkpoint(CHECKPOINT)
    checkpoint.model.save_pretrained(tmp_path, max_shard_size="1MB")
    checkpoint.tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_checkpoint(tmp_path)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[0].name}: missing"):
        load_checkpoint(tmp_path)


def test_a_truncated_weight_file_is_named(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged or incomplete"):
        load_checkpoint(folder)


def test_a_truncated_shard_is_named(folder: Path):
    shard(folder)
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: damaged or incomplete"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "names", [["pytorch_model.bin"], ["pytorch_model.bin.index.json", "pytorch_model-1.bin"]]
)
def test_pickled_weights_are_refused(folder: Path, names: list[str]):
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"only pickled weights, .*safetensors.torch.save_file"):
        load_checkpoint(folder)


def test_an_index_that_names_no_shards(folder: Path):
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index.json: has no weight_map"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [3, "../model.safetensors"])
def test_an_index_that_names_a_file_elsewhere(folder: Path, name: object):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"weight_map names .*, which is no file beside it"):
        load_checkpoint(folder)


def test_a_config_of_a_far_larger_model_takes_no_memory(folder: Path):
    def grow(config: dict[str, Any]) -> None:
        config["llm_config"].update(num_hidden_layers=80, intermediate_size=1 << 28)

    edit(folder / "config.json", grow)
    with pytest.raises(
        CheckpointError, match=r"924 missing keys, .*config.json and the weights are not of one"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}},
            "no model can be built as it says .*spiral",
        ),
        ({"hidden_size": "wide"}, "no model can be built as it says"),
        ({"hidden_size": 48}, "mismatched keys, first"),
    ],
)
def test_a_config_that_does_not_fit_its_weights(folder: Path, change: dict[str, Any], says: str):
    edit(folder / "config.json", lambda config: config["llm_config"].update(change))
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "says"), [("[1]", "must hold a JSON object, holds a list"), ("{}", "describes a None")]
)
def test_a_config_that_describes_nothing(folder: Path, text: str, says: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(folder)


def test_damaged_tokenizer_files(folder: Path):
    (folder / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="the tokenizer files cannot be read"):
        load_checkpoint(folder)


def test_a_folder_that_is_not_there():
    with pytest.raises(CheckpointError, match="pocket/weights/nowhere: no such folder"):
        load_checkpoint("pocket/weights/nowhere")


def test_a_hub_id_without_network_says_how_to_obtain_it():
    with pytest.raises(CheckpointError, match="hf download nobody/nothing"):
        load_checkpoint("nobody/nothing")


def answered(kind: type[hub.HfHubHTTPError], status: int) -> hub.HfHubHTTPError:
    """A hub error as its HTTP library delivers it."""
    http = importlib.import_module(hub.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
    return kind(
        "refused", response=http.Response(status, request=http.Request("GET", "https://huggingface.co"))
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            answered(hub.GatedRepoError, 401),
            r"gated, .*HTTP 401.*https://huggingface.co/me/it.*hf auth login",
        ),
        (answered(hub.GatedRepoError, 403), r"gated, .*HTTP 403.*accept its terms"),
        (answered(hub.RepositoryNotFoundError, 401), r"no such hub repository \(if private: `hf auth login`"),
        (answered(hub.RevisionNotFoundError, 404), r"no revision 'v2'"),
        (answered(hub.HfHubHTTPError, 403), r"HTTP 403; run `hf auth login`"),
        (answered(hub.HfHubHTTPError, 503), r"HTTP 503; try again later, or .*hf download me/it"),
        (hub.LocalEntryNotFoundError("not there"), r"not in the local hub cache, .*hf download me/it"),
        (hub.HFValidationError("bad name"), r"not a hub id \(HFValidationError: bad name\)"),
        (OSError(28, "No space left on device"), r"the download failed .*No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_hub_error_says_what_to_do(error: Exception, says: str):
    message = str(download_error(error, "me/it", "v2"))
    assert message.startswith("me/it: ") and re.search(says, message), message
    assert "\n" not in message


def test_a_partly_cached_repository_is_told_from_one_that_is_not_cached():
    incomplete = getattr(hub, "IncompleteSnapshotError", None)
    if incomplete is None:
        pytest.skip("this huggingface_hub does not tell them apart")
    error = incomplete("2 file(s) are missing", snapshot_path="/cache")
    assert "not completely in the local hub cache" in str(download_error(error, "me/it"))


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"config.json: missing"):
        load_checkpoint(tmp_path)


def test_another_architecture_is_refused(folder: Path):
    edit(
        folder / "config.json", lambda config: config.update(architectures=["LlavaForConditionalGeneration"])
    )
    with pytest.raises(
        CheckpointError, match="LlavaForConditionalGeneration; it must be an InternVLChatModel"
    ):
        load_checkpoint(folder)


def test_another_language_model_is_refused(folder: Path):
    edit(folder / "config.json", lambda c: c["llm_config"].update(architectures=["InternLM2ForCausalLM"]))
    with pytest.raises(CheckpointError, match="InternLM2ForCausalLM; only Qwen2ForCausalLM"):
        load_checkpoint(folder)


def test_another_language_model_in_the_native_layout_is_refused(folder: Path):
    config = {"architectures": ["InternVLForConditionalGeneration"], "text_config": {"model_type": "qwen3"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="text_config is a qwen3; only qwen2"):
        load_checkpoint(folder)


def test_a_config_without_a_language_model_is_refused(folder: Path):
    edit(folder / "config.json", lambda config: config.pop("llm_config"))
    with pytest.raises(CheckpointError, match=r"config.json has no llm_config"):
        load_checkpoint(folder)


@pytest.mark.parametrize(("key", "value"), [("ps_version", "v1"), ("template", "phi3"), ("use_llm_lora", 8)])
def test_settings_that_native_internvl_lacks_are_refused(folder: Path, key: str, value: object):
    edit(folder / "config.json", lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=f"config {key} is {value!r}; only"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_tokenizer_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        load_checkpoint(folder)


def test_a_missing_letter_token_is_named(folder: Path):
    edit(folder / "vocab.json", lambda vocabulary: vocabulary.pop("cy"))
    merges = folder / "merges.txt"
    merges.write_text("".join(line for line in merges.read_text().splitlines(True) if line != "c y\n"))
    with pytest.raises(CheckpointError, match="token 'cy' is not in the vocabulary, and ratings are read"):
        RatingEngine(load_checkpoint(folder), UNIPERCEPT_QUESTIONS)


def test_weights_of_another_model_are_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"decoder.weight": weights["mlp1.0.bias"].clone()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder.weight is not part of InternVLChatModel"):
        load_checkpoint(folder)
    weights.pop("mlp1.0.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing keys, first model.multi_modal_projector.layer_norm.bias"
    ):
        load_checkpoint(folder)
