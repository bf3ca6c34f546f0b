"""The ArtiMuse scorer against the published code, and several scorers on one model."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_plugin import engines
from reward_plugin.checkpoint import load_checkpoint
from reward_plugin.engines import shared_checkpoint
from reward_plugin.errors import ConfigError
from reward_plugin.prompting import ARTIMUSE_QUESTIONS, conversation
from reward_plugin.scorers import artimuse, unipercept
from tests.reward.golden import CHECKPOINT, EXPECTED, FOLDER, TOLERANCE, expected, with_config

SCORES = EXPECTED["artimuse_scores"]
IMAGES = [FOLDER / "images" / name for name in SCORES]


def test_scores_equal_the_published_code():
    scorer = artimuse.build(str(CHECKPOINT), device="cpu")
    table = scorer.score(IMAGES)
    assert (scorer.name, table.dimensions) == ("artimuse", ("artimuse",))
    assert scorer.ranges == {"artimuse": (0.0, 100.0)}
    assert table.errors == (None,) * len(IMAGES)
    np.testing.assert_allclose(table.values[:, 0], list(SCORES.values()), rtol=0, atol=TOLERANCE)


def test_the_question_keeps_the_published_spaces_and_line_breaks():
    (question,) = ARTIMUSE_QUESTIONS.values()
    assert question.startswith("\n        Rate the aesthetics score of the image in 0-100. \n")
    assert question.endswith("100-ey.\n\n        The answer only outputs 2 corresponding letters.\n        ")
    assert question.count("\n") == 10 and "78-ec, 79-ed" in question
    assert "</img>\n\n        Rate the" in conversation(question, 2, None)


def test_the_published_rounding_can_be_asked_for():
    rounded = artimuse.build(str(CHECKPOINT), device="cpu", dtype="bfloat16", precision="published")
    score = rounded.score(IMAGES[:1]).values
    assert float(score[0, 0] * 4).is_integer()
    np.testing.assert_allclose(score[0, 0], next(iter(SCORES.values())), rtol=0, atol=2)
    with pytest.raises(ConfigError, match="precision 'half': write float32 or published"):
        artimuse.build(str(CHECKPOINT), device="cpu", precision="half")


def test_scorers_and_chats_on_one_checkpoint_share_its_model():
    path = str(CHECKPOINT)
    first = unipercept.build(path, device="cpu")
    second = artimuse.build(path, device="cpu")
    third = shared_checkpoint(Path(path), device="cpu", dtype=torch.float32)
    assert first.engine.model is second.engine.model is third.model
    assert (third.image_size, third.num_image_tokens) == (448, 256)
    images, values = expected("scores")
    np.testing.assert_allclose(first.score(images[:2]).values, values[:2], rtol=0, atol=TOLERANCE)
    assert second.score(images[:2]).values[0, 0] == pytest.approx(SCORES[images[0].name], abs=TOLERANCE)


def test_what_differs_is_not_shared(tmp_path: Path):
    copy = with_config(tmp_path / "copy")
    plain = shared_checkpoint(copy, dtype=torch.float32)
    others = [
        shared_checkpoint(copy, dtype=torch.bfloat16),
        shared_checkpoint(copy, dtype=torch.float32, attention="eager"),
        shared_checkpoint(CHECKPOINT, dtype=torch.float32),
        load_checkpoint(copy),
    ]
    assert len({id(checkpoint.model) for checkpoint in [plain, *others]}) == 5
    assert others[1].model.config._attn_implementation == "eager"


def test_a_checkpoint_that_was_written_anew_is_loaded_anew(tmp_path: Path):
    copy = with_config(tmp_path / "copy")
    before = shared_checkpoint(copy, dtype=torch.float32)
    weights = load_file(copy / "model.safetensors")
    changed = {name: tensor + 1 if name == "mlp1.0.bias" else tensor for name, tensor in weights.items()}
    save_file(changed, tmp_path / "new.safetensors", {"format": "pt"})
    (tmp_path / "new.safetensors").replace(copy / "model.safetensors")
    after = shared_checkpoint(copy, dtype=torch.float32)
    biases = [c.model.model.multi_modal_projector.layer_norm.bias for c in (before, after)]
    torch.testing.assert_close(biases[1], biases[0] + 1)


def test_the_model_is_freed_with_its_last_user(tmp_path: Path):
    copy = with_config(tmp_path / "copy")
    scorer = unipercept.build(str(copy), device="cpu")
    other = shared_checkpoint(copy, dtype=torch.float32)
    model = weakref.ref(scorer.engine.model)
    del scorer
    gc.collect()
    assert model() is other.model
    del other
    gc.collect()
    assert model() is None
    shared_checkpoint(CHECKPOINT, dtype=torch.float32)
    assert not any(key[0] == copy.resolve() for key in engines._loaded)


def test_threads_that_ask_at_once_get_one_model(tmp_path: Path):
    copy = with_config(tmp_path / "copy")
    start = threading.Barrier(3)

    def load(_: int) -> torch.nn.Module:
        start.wait(30)
        return shared_checkpoint(copy, dtype=torch.float32).model

    with ThreadPoolExecutor(3) as threads:
        models = list(threads.map(load, range(3)))
    assert models[0] is models[1] is models[2]
