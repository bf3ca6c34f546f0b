"""Pictures: the same noise whatever the batch, kept on disk, made anew when their origin changes."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from eval.config import Sampling
from eval.generate import (
    Item,
    Models,
    find_lora,
    generate,
    lora_identity,
    model_identity,
    noise,
    sample,
)

SAMPLING = Sampling(num_steps=2, height=32, width=32, max_sequence_length=32)
ITEMS = [
    Item(prompt, index, member)
    for index, prompt in enumerate(["a red apple", "a blue boat", "a cat"])
    for member in (0, 1)
]


@pytest.fixture(scope="module")
def models(flux: Path) -> Callable[[Path | None], Any]:
    pipelines = Models("float32", "cpu")
    return partial(pipelines, str(flux))


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def test_pictures_do_not_depend_on_the_batch(models: Callable[[Path | None], Any]):
    together = sample(models(None), ITEMS, SAMPLING)
    alone = [sample(models(None), [item], SAMPLING)[0] for item in ITEMS]
    for first, second in zip(together, alone, strict=True):
        # Batched matrix products round differently in the last bit; that can move a value by one of 255.
        assert np.abs(pixels(first) - pixels(second)).max() <= 1
    assert len({image.tobytes() for image in together}) == len(ITEMS)


def test_noise_is_decided_by_seed_prompt_index_and_member(models: Callable[[Path | None], Any]):
    pipeline = models(None)
    drawn = noise(pipeline, ITEMS, SAMPLING)
    assert drawn.shape == (6, 16, 32)
    backwards = noise(pipeline, ITEMS[::-1], SAMPLING)
    assert (drawn == backwards.flip(0)).all()
    assert len({row.numpy().tobytes() for row in drawn}) == 6
    renamed = noise(pipeline, [Item("another text", 0, 0)], SAMPLING)
    assert (renamed[0] == drawn[0]).all()
    reseeded = noise(pipeline, ITEMS[:1], Sampling(height=32, width=32, seed=1))
    assert not (reseeded[0] == drawn[0]).any()


def test_a_lora_of_zeros_equals_base_and_taking_one_off_restores_it(
    models: Callable[[Path | None], Any], make_lora: Callable[[float], Path], lora: Path
):
    base = [image.tobytes() for image in sample(models(None), ITEMS, SAMPLING)]
    zeros = sample(models(find_lora(make_lora(0.0))), ITEMS, SAMPLING)
    assert [image.tobytes() for image in zeros] == base
    tuned = sample(models(find_lora(lora)), ITEMS, SAMPLING)
    assert all(image.tobytes() != other for image, other in zip(tuned, base, strict=True))
    assert [image.tobytes() for image in sample(models(None), ITEMS, SAMPLING)] == base


def test_pictures_on_disk_are_not_made_again(models: Callable[[Path | None], Any], tmp_path: Path):
    identity = {"model": "one"}

    def make(items: list[Item], **changes: object) -> int:
        options: dict = {"sampling": SAMPLING, "identity": identity, "batch_size": 4} | changes
        return generate(lambda: models(None), items, tmp_path, **options)

    assert make(ITEMS) == 6
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    assert make(ITEMS) == 0
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")} == before
    (tmp_path / ITEMS[3].file).unlink()
    assert make(ITEMS) == 1
    assert make([Item("a cat on the grass", 2, 0), *ITEMS[:4]]) == 1
    assert make(ITEMS, identity={"model": "two"}) == 6
    assert make(ITEMS, identity={"model": "two"}, sampling=Sampling(3, 3.5, 32, 32, 32)) == 6


def test_an_interrupted_generation_goes_on_where_it_stopped(
    models: Callable[[Path | None], Any], tmp_path: Path
):
    class Interrupted:
        """The pipeline, until Ctrl-C during the second batch."""

        calls = 0

        def __call__(self, **arguments):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return models(None)(**arguments)

        def __getattr__(self, name: str):
            return getattr(models(None), name)

    options: dict = {"sampling": SAMPLING, "identity": {}, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        generate(Interrupted, ITEMS, tmp_path, **options)
    assert sorted(json.loads((tmp_path / "manifest-0.json").read_text())["images"]) == [
        "0000-0.png",
        "0000-1.png",
    ]
    assert generate(lambda: models(None), ITEMS, tmp_path, **options) == 4


def test_a_changed_lora_or_model_has_another_identity(flux: Path, lora: Path, tmp_path: Path):
    copy = tmp_path / "lora.safetensors"
    shutil.copy(find_lora(lora), copy)
    assert lora_identity(copy) == lora_identity(find_lora(lora))
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert lora_identity(copy) != lora_identity(find_lora(lora))

    moved = tmp_path / "moved"
    shutil.copytree(flux, moved)
    assert model_identity(str(moved)) == model_identity(str(flux))
    weights = moved / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_identity(str(moved)) != model_identity(str(flux))
    assert model_identity("black-forest-labs/FLUX.1-dev") == {"model": "black-forest-labs/FLUX.1-dev"}


@pytest.mark.parametrize(("height", "width", "name"), [(30, 32, "height"), (32, 4, "width")])
def test_a_size_the_model_cannot_make_is_refused(
    models: Callable[[Path | None], Any], height: int, width: int, name: str
):
    with pytest.raises(ValueError, match=f"sampling.{name} .* multiple of 8"):
        noise(models(None), ITEMS, Sampling(height=height, width=width))


def test_unusable_loras_are_named(models: Callable[[Path | None], Any], tmp_path: Path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="nowhere does not exist"):
        find_lora(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no pytorch_lora_weights\.safetensors"):
        find_lora(tmp_path)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.safetensors does not load"):
        models(find_lora(tmp_path / "text.safetensors"))
    import torch

    alien = tmp_path / "alien.safetensors"
    save_file(
        {"unet.to_q.lora_A.weight": torch.zeros(2, 4), "unet.to_q.lora_B.weight": torch.zeros(4, 2)}, alien
    )
    with pytest.raises(ValueError, match=r"alien\.safetensors"):
        models(find_lora(alien))
    assert sample(models(None), ITEMS[:1], SAMPLING)
