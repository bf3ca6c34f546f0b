"""Embeddings of prompts on disk: whole, keyed by all that they depend on, and without encoders in memory."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flow_grpo.policy.flux import FluxPolicy, ModelConfig
from flow_grpo.policy.lora import LoraConfig
from flow_grpo.policy.text import SAMPLE, TextStore, encoder_fingerprint
from flow_grpo.train import main

TEXTS = ["a red apple", "a blue boat on the sky", "a red apple"]


def path_of(policy: FluxPolicy, text: str) -> Path:
    assert policy.texts.store is not None
    return policy.texts.store.path(text)


def policy(path: Path, cache: Path | None, **options) -> FluxPolicy:
    settings = {"dtype": "float32", "height": 32, "width": 32, "max_sequence_length": 32, **options}
    text_cache = None if cache is None else str(cache)
    return FluxPolicy(ModelConfig(path=str(path), text_cache=text_cache, lora=LoraConfig(rank=4), **settings))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cached_embedding_is_the_computed_one_to_the_bit_and_needs_no_encoder(flux_path, tmp_path, dtype):
    expected = policy(flux_path, None, dtype=dtype).encode(TEXTS).tensors
    filling = policy(flux_path, tmp_path / "cache", dtype=dtype)
    assert filling.pipeline.text_encoder_2 is None
    first = filling.encode(TEXTS).tensors
    assert not filling._text_side.loaded, "the encoders stay in memory"
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2
    again = policy(flux_path, tmp_path / "cache", dtype=dtype)
    again._text_side._load = lambda: pytest.fail("every prompt is on disk, but an encoder was loaded")
    second = again.encode(TEXTS).tensors
    for name, value in expected.items():
        assert torch.equal(first[name], value) and torch.equal(second[name], value)
        assert second[name].dtype == value.dtype


def test_a_key_depends_on_the_encoders_the_dtype_and_the_length(flux_path, tmp_path):
    first = policy(flux_path, tmp_path / "cache")
    keys = {path_of(first, "a"), path_of(first, "b")}
    for options in ({"dtype": "bfloat16"}, {"max_sequence_length": 16}):
        keys.add(path_of(policy(flux_path, tmp_path / "cache", **options), "a"))
    other = shutil.copytree(flux_path, tmp_path / "other")
    same = path_of(policy(other, tmp_path / "cache"), "a")
    assert same == path_of(first, "a"), "the folder's place is no part of the key"
    weights = other / "text_encoder_2" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    keys.add(path_of(policy(other, tmp_path / "cache"), "a"))
    assert len(keys) == 5


def test_a_large_file_enters_the_fingerprint_by_its_length_and_spread_blocks(tmp_path):
    file = tmp_path / "text_encoder" / "model.safetensors"
    file.parent.mkdir()
    content = bytearray(3 * SAMPLE)
    seen = set()
    for place in (None, 0, 3 * SAMPLE - 1, (3 * SAMPLE - SAMPLE // 64) * 31 // 63 + 5):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        file.write_bytes(changed)
        seen.add(encoder_fingerprint(tmp_path))
    file.write_bytes(content + b"0")
    seen.add(encoder_fingerprint(tmp_path))
    assert len(seen) == 5


def test_a_torn_file_is_computed_again(flux_path, tmp_path):
    filling = policy(flux_path, tmp_path)
    expected = filling.encode(TEXTS[:1]).tensors["tokens"]
    file = path_of(filling, TEXTS[0])
    file.write_bytes(file.read_bytes()[:-7])
    assert torch.equal(policy(flux_path, tmp_path).encode(TEXTS[:1]).tensors["tokens"], expected)
    assert torch.equal(load_file(file)["tokens"], expected[0])


def test_writers_of_one_embedding_at_once_never_show_a_part_of_it(tmp_path):
    value = torch.arange(50_000.0)

    def write_and_read(number: int) -> bool:
        store = TextStore(tmp_path, "encoder")
        whole = []
        for _ in range(20):
            store.write("a cat", {"tokens": value})
            read = store.read("a cat")
            whole.append(read is not None and torch.equal(read["tokens"], value))
        return all(whole)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(4)))
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


def test_a_cache_that_cannot_be_written_is_an_error(flux_path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        policy(flux_path, tmp_path / "file" / "cache").encode(TEXTS)


def test_training_with_the_cache_is_training_without_to_the_bit(arguments, tmp_path):
    rows, cache = [], tmp_path / "cache"
    for name, path in {"without": "null", "with": cache}.items():
        run = tmp_path / name
        assert main(arguments(run_dir=run, model__text_cache=path, iterations=1, validation__every=1)) == 0
        lines = (run / "metrics.jsonl").read_text().splitlines()
        kept = [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]
        rows.append((kept, (run / "pytorch_lora_weights.safetensors").read_bytes()))
    assert rows[0] == rows[1]
    assert len(list(cache.rglob("*.safetensors"))) == 8, "all prompts, before they are needed"
