"""UniSim as a metric: its numbers are the formulas' on the encoder's embeddings, and failures stay apart."""

import numpy as np
import pytest

from reward_plugin.errors import ConfigError
from reward_plugin.unisim import formulas
from reward_plugin.unisim.metric import NO_TEXT, UniSim
from reward_plugin.unisim.prompts import texts_for
from reward_plugin.unisim.questions import Question
from tests.reward.published import golden, pictures, save_clip

IMAGES = pictures(golden("hpsv2")["crops"])
CHOICES = ("img_2afc", "it_2afc", "text_2afc", "iqa", "paa", "ooo", "nafc")


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> UniSim:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return UniSim.load(str(folder), device="cpu", batch_size=2)


def vectors(metric: UniSim) -> np.ndarray:
    return metric.encoder.embed_images(IMAGES)[0]


def test_similarities_and_ratings_are_the_formulas(metric: UniSim):
    seen, read = vectors(metric), metric.encoder.embed_texts(["a cup", "a cat"])
    alike = metric.image_similarity(IMAGES[:2], IMAGES[2:4])
    np.testing.assert_allclose(alike.values, (seen[:2] * seen[2:4]).sum(axis=1), atol=1e-6)
    fits = metric.text_similarity(IMAGES[:2], ["a cup", "a cat"])
    np.testing.assert_allclose(fits.values, (seen[:2] * read).sum(axis=1), atol=1e-6)
    for quantity in ("quality", "sharpness"):
        for formula in ("naive", "paper", "clip_iqa"):
            prompts = metric.encoder.embed_texts(texts_for(quantity, formula))
            found = metric.rate(IMAGES, quantity, formula)
            np.testing.assert_array_equal(found.values, formulas.rate(seen, prompts))
            assert found.errors == (None,) * len(IMAGES)


def test_every_task_is_answered_by_its_own_formula(metric: UniSim):
    a, b, c, d, _ = vectors(metric)
    cup, cat = metric.encoder.embed_texts(["a cup", "a cat"])
    good = metric.encoder.embed_texts(texts_for("quality"))
    bright = metric.encoder.embed_texts(texts_for("brightness"))
    expected = {
        "img_2afc": formulas.img_2afc(a, b, c),
        "it_2afc": formulas.it_2afc(cup, a, b),
        "text_2afc": formulas.text_2afc(a, cup, cat),
        "iqa": formulas.choose(formulas.rate(np.stack([a, b]), good)),
        "paa": formulas.choose(formulas.rate(np.stack([a, b]), bright)),
        "ooo": formulas.odd_one_out(a, b, c),
        "nafc": formulas.nafc(cup, np.stack([a, b, c, d])),
    }
    questions = [
        Question("img_2afc", IMAGES[:3]),
        Question("it_2afc", IMAGES[:2], ["a cup"]),
        Question("text_2afc", IMAGES[:1], ["a cup", "a cat"]),
        Question("iqa", IMAGES[:2]),
        Question("paa", IMAGES[:2], attribute="brightness"),
        Question("ooo", IMAGES[:3]),
        Question("nafc", IMAGES[:4], ["a cup"]),
    ]
    answers = metric.answer(questions)
    for question, answer in zip(questions, answers, strict=True):
        assert answer.choice == expected[question.task].choice, question.task
        assert answer.margin == pytest.approx(float(expected[question.task].margin), abs=1e-7)
        assert len(answer.scores) == question.choices and answer.error is answer.text is None
        assert answer == metric.choose(question.task, question.images, question.texts, question.attribute)


def test_the_odd_one_is_found_wherever_it_stands(metric: UniSim):
    odd, *others = IMAGES[0], IMAGES[1], IMAGES[1].rotate(3)
    for place in range(3):
        images = [*others[:place], odd, *others[place:]]
        assert metric.choose("ooo", images).choice == place


def test_swapping_the_choices_swaps_the_answer(metric: UniSim):
    first, other = (
        metric.choose("iqa", images, formula="clip_iqa") for images in (IMAGES[:2], IMAGES[1::-1])
    )
    assert first.choice == 1 - (other.choice or 0) and first.margin == other.margin
    tie = metric.choose("it_2afc", [IMAGES[0], IMAGES[0].copy()], ["a cup"])
    assert tie.choice == 0 and tie.margin == 0


def test_a_question_with_an_unreadable_picture_has_no_answer(metric: UniSim):
    broken, sound = metric.answer([Question("iqa", [b"junk", IMAGES[0]]), Question("iqa", IMAGES[:2])])
    assert broken.choice is broken.margin is None and "not one of PNG" in (broken.error or "")
    assert sound == metric.choose("iqa", IMAGES[:2]) and sound.choice is not None
    values, errors = metric.image_similarity([IMAGES[0], IMAGES[0]], [IMAGES[0], b"junk"])
    assert values[0] == pytest.approx(1) and np.isnan(values[1]) and "not one of PNG" in (errors[1] or "")
    values, errors = metric.rate([b"junk", IMAGES[0]])
    assert np.isnan(values[0]) and errors[0] and np.isfinite(values[1]) and errors[1] is None


def test_a_text_that_cannot_be_embedded_says_so(metric: UniSim, monkeypatch: pytest.MonkeyPatch):
    nowhere = np.full((1, metric.encoder.dimension), np.nan, dtype=np.float32)
    monkeypatch.setattr(metric.encoder, "embed_texts", lambda texts: np.repeat(nowhere, len(texts), axis=0))
    assert metric.choose("it_2afc", IMAGES[:2], ["a cup"]).error == NO_TEXT
    assert metric.text_similarity(IMAGES[:1], ["a cup"]).errors == (NO_TEXT,)


@pytest.mark.parametrize(
    ("task", "count", "texts", "attribute", "reason"),
    [
        ("ir", 3, (), None, "task 'ir': write img_2afc"),
        ("img_2afc", 2, (), None, "takes 3 images and a list of 0 texts, not 2 and 0"),
        ("nafc", 1, ["a"], None, "takes 2 or more images and a list of 1 texts, not 1 and 1"),
        ("it_2afc", 2, "a", None, "not 2 and one text by itself"),
        ("paa", 2, (), "hue", "attribute 'hue': task paa takes one of brightness"),
        ("iqa", 2, (), "contrast", "attribute 'contrast': task paa takes one of"),
    ],
)
def test_questions_that_make_no_sense_are_refused(task, count, texts, attribute, reason: str):
    with pytest.raises(ConfigError, match=reason):
        Question(task, IMAGES[:count], texts, attribute)


def test_lists_of_different_lengths_are_refused(metric: UniSim):
    with pytest.raises(ValueError, match="2 images and 1 texts: they are compared one by one"):
        metric.text_similarity(IMAGES[:2], ["a"])
    with pytest.raises(ConfigError, match="formula 'x': write naive"):
        metric.choose("iqa", IMAGES[:2], formula="x")
