"""UniSim's formulas on unit vectors whose cosines are known."""

import numpy as np
import pytest
import torch

from reward_plugin.errors import ConfigError
from reward_plugin.unisim import formulas
from reward_plugin.unisim.prompts import ATTRIBUTES, PROMPTS, texts_for


def unit(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane, float32 [n, 2]: their cosines are those of the differences."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


MISSING = np.full((1, 2), np.nan, dtype=np.float32)


@pytest.mark.parametrize("ask", [formulas.img_2afc, formulas.it_2afc, formulas.text_2afc])
def test_of_two_the_closer_one_is_chosen_and_the_first_of_equals(ask):
    choice, margin = ask(unit(0, 0, 0), unit(60, 10, 30), unit(10, 60, -30))
    np.testing.assert_array_equal(choice, [1, 0, 0])
    gap = np.cos(np.radians(10)) - np.cos(np.radians(60))
    np.testing.assert_allclose(margin, [gap, gap, 0], atol=1e-6)
    assert margin[2] == 0


def test_one_reference_is_compared_with_many():
    choice, _ = formulas.img_2afc(unit(0)[0], unit(60, 10), unit(10, 60))
    np.testing.assert_array_equal(choice, [1, 0])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_question_with_a_missing_part_has_no_answer(position: int):
    parts = [unit(0, 0), unit(60, 60), unit(10, 10)]
    parts[position] = np.concatenate([MISSING, parts[position][1:]])
    for ask in (formulas.img_2afc, formulas.odd_one_out):
        choice, margin = ask(*parts)
        assert np.isnan([choice[0], margin[0]]).all() and np.isfinite([choice[1], margin[1]]).all()


def test_the_odd_one_is_the_one_whose_others_are_most_alike():
    turns = [(90, 0, 5), (0, 90, 5), (0, 5, 90)]
    first, second, third = (unit(*(turn[i] for turn in turns)) for i in range(3))
    choice, margin = formulas.odd_one_out(first, second, third)
    np.testing.assert_array_equal(choice, [0, 1, 2])
    np.testing.assert_allclose(margin, np.cos(np.radians(5)) - np.cos(np.radians(85)), atol=1e-6)
    assert formulas.odd_one_out(unit(0), unit(120), unit(240)).choice.shape == (1,)
    same = unit(7)
    np.testing.assert_array_equal(formulas.odd_one_out(same, same, same), [[0], [0]])


def test_of_many_the_best_is_chosen():
    images = np.stack([unit(50, 3, 20), unit(-3, 3, 90)])
    choice, margin = formulas.nafc(unit(0, 0), images)
    np.testing.assert_array_equal(choice, [1, 0])
    np.testing.assert_allclose(margin, [np.cos(np.radians(3)) - np.cos(np.radians(20)), 0], atol=1e-6)
    with pytest.raises(ValueError, match="two or more"):
        formulas.nafc(unit(0), unit(0)[:, None])


def test_a_rating_is_the_cosine_or_the_softmax_over_two():
    images, texts = unit(0, 40, 80), unit(0, 90)
    cosines = np.cos(np.radians([0, 40, 80]))
    np.testing.assert_allclose(formulas.rate(images, texts[:1]), cosines, atol=1e-6)
    pairs = torch.tensor(np.stack([cosines, np.cos(np.radians([90, 50, 10]))], axis=1))
    np.testing.assert_allclose(formulas.rate(images, texts), torch.softmax(pairs, dim=1)[:, 0], atol=1e-6)
    assert np.isnan(formulas.rate(MISSING, texts)).all()
    np.testing.assert_allclose(formulas.rate(unit(0), unit(0, 180)), 1 / (1 + np.exp(-2)), atol=1e-6)


def test_rankings_are_by_similarity_and_keep_the_order_of_equals():
    gallery = unit(70, 10, 10, -10, 0)
    np.testing.assert_array_equal(formulas.ranking(unit(0, 70), gallery), [[4, 1, 2, 3, 0], [0, 1, 2, 4, 3]])
    for vectors, name in (((MISSING, gallery), "query"), ((gallery, MISSING), "gallery")):
        with pytest.raises(ValueError, match=f"1 vectors of the {name} are NaN; leave them out"):
            formulas.ranking(*vectors)


def test_equal_embeddings_tie_wherever_they_stand():
    vectors = np.random.default_rng(3).standard_normal((40, 513)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = np.concatenate([vectors, vectors[:7]])
    matrix = formulas.similarities(vectors, gallery)
    np.testing.assert_array_equal(matrix[:, :7], matrix[:, 40:])
    np.testing.assert_allclose(matrix, vectors.astype(float) @ gallery.astype(float).T, atol=1e-7)
    np.testing.assert_array_equal(formulas.similarity(vectors[3], gallery), matrix[3])
    assert matrix.dtype == np.float32


def test_prompts_are_those_of_the_published_code():
    assert texts_for("quality") == ("A high-quality photo.",)
    assert texts_for("quality", "paper") == ("A high quality photo.",)
    assert texts_for("quality", "clip_iqa") == ("Good photo.", "Bad photo.")
    assert texts_for("sharpness") == ("A very sharp photo",)
    assert texts_for("colorfulness", "clip_iqa") == ("Colorful photo.", "Dull photo")
    assert all(set(prompts) == {"quality", *ATTRIBUTES} for prompts in PROMPTS.values())
    with pytest.raises(ConfigError, match="quantity 'hue': write quality, brightness"):
        texts_for("hue")
    with pytest.raises(ConfigError, match="formula 'softmax': write naive, paper, clip_iqa"):
        texts_for("quality", "softmax")
