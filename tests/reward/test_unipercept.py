"""The UniPercept scorer against what the published package returned, and against itself."""

import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from reward_plugin.checkpoint import Checkpoint, load_checkpoint
from reward_plugin.internvl import RatingEngine, pack, pixel_values
from reward_plugin.prompting import (
    LETTER_TOKENS,
    SYSTEM_MESSAGE,
    UNIPERCEPT_QUESTIONS,
    conversation,
    log_prompt,
)
from reward_plugin.scorers.unipercept import UniPerceptScorer, build
from tests.reward.golden import CHECKPOINT, TOLERANCE, expected, with_config


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def scorer(checkpoint: Checkpoint) -> UniPerceptScorer:
    return UniPerceptScorer(RatingEngine(checkpoint, UNIPERCEPT_QUESTIONS))


def test_scores_equal_the_published_package(scorer: UniPerceptScorer):
    images, values = expected("scores")
    table = scorer.score(images)
    assert table.dimensions == ("iaa", "iqa", "ista")
    assert table.errors == (None,) * len(images)
    np.testing.assert_allclose(table.values, values, rtol=0, atol=TOLERANCE)


def test_a_null_system_message_is_sent_as_the_word_none(tmp_path: Path):
    images, values = expected("scores_with_null_system_message")
    scorer = build(str(with_config(tmp_path / "null", system_message=None)), device="cpu")
    np.testing.assert_allclose(scorer.score(images).values, values, rtol=0, atol=TOLERANCE)


def test_the_system_message_can_be_overridden(tmp_path: Path):
    images, values = expected("scores")
    folder = with_config(tmp_path / "null", system_message=None)
    scorer = build(str(folder), device="cpu", system_message=SYSTEM_MESSAGE)
    np.testing.assert_allclose(scorer.score(images).values, values, rtol=0, atol=TOLERANCE)


def test_a_prompt_is_logged_once_a_process(caplog: pytest.LogCaptureFixture):
    text = conversation("<image>Is this question logged?", 256, SYSTEM_MESSAGE)
    with caplog.at_level(logging.INFO, logger="reward_plugin"):
        assert log_prompt(text)
        assert not log_prompt(text)
        assert log_prompt(text.replace("this", "that"))
    assert len(caplog.records) == 2
    assert SYSTEM_MESSAGE in caplog.text and "<img><IMG_CONTEXT>*256</img>Is this" in caplog.text


def test_a_batch_equals_single_images(scorer: UniPerceptScorer):
    images, _ = expected("scores")
    batch = scorer.score(images).values
    single = np.concatenate([scorer.score([image]).values for image in images])
    np.testing.assert_allclose(batch, single, rtol=0, atol=TOLERANCE)


def test_batches_smaller_than_the_request_keep_the_order(checkpoint: Checkpoint):
    images, values = expected("scores")
    scorer = UniPerceptScorer(RatingEngine(checkpoint, UNIPERCEPT_QUESTIONS, batch_size=2))
    np.testing.assert_allclose(scorer.score(images).values, values, rtol=0, atol=TOLERANCE)


def test_packed_questions_equal_one_pass_for_each(checkpoint: Checkpoint, scorer: UniPerceptScorer):
    images, _ = expected("scores")
    pixels = pixel_values([PIL.Image.open(images[0]).convert("RGB")], checkpoint.image_size)
    packed = scorer.engine.letter_logits(pixels)[0]
    letters = checkpoint.tokenizer.convert_tokens_to_ids(list(LETTER_TOKENS))
    for question, logits in zip(UNIPERCEPT_QUESTIONS.values(), packed, strict=True):
        text = conversation(question, checkpoint.num_image_tokens, checkpoint.system_message)
        ids = torch.tensor([checkpoint.tokenizer(text).input_ids])
        naive = checkpoint.model(input_ids=ids, pixel_values=pixels).logits[0, -1, letters]
        torch.testing.assert_close(logits, naive, rtol=0, atol=2e-5)


def test_packing_shares_the_prefix_and_hides_the_questions_from_each_other():
    packed = pack([[7, 8, 1, 2], [7, 8, 3], [7, 8, 3, 4]])
    assert packed.input_ids.tolist() == [7, 8, 1, 2, 3, 3, 4]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 2, 2, 3]
    assert packed.ends == (3, 4, 6)
    assert packed.visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]


def test_a_single_question_keeps_its_last_token():
    packed = pack([[7, 8, 9]])
    assert (packed.input_ids.tolist(), packed.ends) == ([7, 8, 9], (2,))


def test_the_native_layout_keeps_a_null_system_message(tmp_path: Path):
    published = load_checkpoint(with_config(tmp_path / "null", system_message=None))
    published.model.save_pretrained(tmp_path / "native")
    published.tokenizer.save_pretrained(tmp_path / "native")
    assert load_checkpoint(tmp_path / "native").system_message is None


def test_scores_use_float32_whatever_the_model_computes_in():
    images, values = expected("scores")
    scores = build(str(CHECKPOINT), device="cpu", dtype="bfloat16").score(images).values
    assert np.abs(scores - values).max() < 2
    assert not np.array_equal(scores, np.round(scores * 4) / 4)  # the published bf16 softmax gives quarters


def test_an_unreadable_image_costs_only_itself(scorer: UniPerceptScorer, tmp_path: Path):
    images, values = expected("scores")
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:2000])
    table = scorer.score([broken, images[1], np.zeros((3, 8, 8), np.uint8)])
    assert np.isnan(table.values[[0, 2]]).all()
    assert str(broken) in (table.errors[0] or "") and "[height, width, 3]" in (table.errors[2] or "")
    np.testing.assert_allclose(table.values[1], values[1], rtol=0, atol=TOLERANCE)


def test_no_images_give_an_empty_table(scorer: UniPerceptScorer):
    assert scorer.score([]).values.shape == (0, 3)
