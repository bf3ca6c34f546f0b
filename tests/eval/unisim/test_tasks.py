"""Every evaluator by hand, with a judge whose values are written down, and against the encoders' formulas."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from eval.unisim.encoders import EncoderJudge
from eval.unisim.samples import Attribute, Sample, Task
from eval.unisim.store import VectorStore, text_key
from eval.unisim.tasks import Outcome, Undefined, Values, evaluate
from reward_plugin.unisim import formulas


class Written:
    """A judge that looks its values up; what is not written has none."""

    def __init__(self, values: Mapping[tuple[str, ...], float]) -> None:
        self.values = values

    def _look(self, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        pairs = zip(first, second, strict=True)
        return np.array([self.values.get((a, b), self.values.get((b, a), np.nan)) for a, b in pairs])

    def alike(self, first: Sequence[str], second: Sequence[str]) -> Values:
        return {"": self._look(first, second)}

    def fits(self, images: Sequence[str], texts: Sequence[str]) -> Values:
        return {"": self._look(images, texts)}

    def shows(self, images: Sequence[str], attribute: Attribute | None) -> Values:
        found = self._look(images, [attribute or "quality"] * len(images))
        return {"straight": found, "reversed": -found}

    def why(self, images: Sequence[str], texts: Sequence[str]) -> str | None:
        return f"{images[0]}: torn" if "torn" in images else None


def choices(found: Sequence[Outcome]) -> list[Mapping[str, int | None] | int | None]:
    return [outcome.choices.get("", outcome.choices) if outcome.choices else None for outcome in found]


def test_img_2afc_takes_the_one_that_is_more_like_the_reference():
    judge = Written({("r", "a"): 0.2, ("r", "b"): 0.7, ("r", "c"): 0.7})
    asked = [
        Sample(f"{i}", "img_2afc", ("r", *pair), label=0) for i, pair in enumerate(("ab", "ba", "bc", "ca"))
    ]
    found = evaluate("img_2afc", asked, judge)
    assert choices(found) == [1, 0, 0, 0]  # of equal ones the first
    assert found[0].values[""].tolist() == [0.2, 0.7]
    assert [outcome.sample for outcome in found] == asked


def test_it_2afc_takes_the_picture_and_text_2afc_the_text_that_fits():
    judge = Written({("a", "t"): 0.1, ("b", "t"): 0.3, ("a", "u"): 0.2})
    pictures = [Sample("0", "it_2afc", ("a", "b"), ("t",), 0), Sample("1", "it_2afc", ("b", "a"), ("t",), 0)]
    assert choices(evaluate("it_2afc", pictures, judge)) == [1, 0]
    texts = [Sample("0", "text_2afc", ("a",), ("t", "u"), 0), Sample("1", "text_2afc", ("a",), ("u", "t"), 0)]
    assert choices(evaluate("text_2afc", texts, judge)) == [1, 0]


def test_iqa_and_paa_take_the_one_that_has_more_by_each_technique():
    judge = Written({("a", "quality"): 1, ("b", "quality"): 2, ("a", "contrast"): 9, ("b", "contrast"): 3,
                     ("a", "brightness"): 1, ("b", "brightness"): 5})  # fmt: skip
    quality = evaluate("iqa", [Sample("0", "iqa", ("a", "b"), label=0)], judge)
    assert choices(quality) == [{"straight": 1, "reversed": 0}]
    attributes: list[Attribute] = ["contrast", "brightness", "contrast"]
    pairs = [("a", "b"), ("a", "b"), ("b", "a")]
    asked = [
        Sample(f"{i}", "paa", pair, label=0, attribute=attribute)
        for i, (pair, attribute) in enumerate(zip(pairs, attributes, strict=True))
    ]
    found = evaluate("paa", asked, judge)
    assert [outcome.choices["straight"] for outcome in found] == [0, 1, 1]
    assert [outcome.values["straight"].tolist() for outcome in found] == [[9, 3], [1, 5], [3, 9]]


def test_the_odd_one_is_that_whose_two_others_are_most_alike():
    judge = Written({("a", "b"): 0.9, ("a", "c"): 0.2, ("b", "c"): 0.3})
    orders = [("a", "b", "c"), ("c", "a", "b"), ("a", "c", "b")]
    asked = [Sample(f"{i}", "ooo", order, label=0) for i, order in enumerate(orders)]
    assert choices(evaluate("ooo", asked, judge)) == [2, 0, 1]


def test_nafc_takes_the_best_of_any_number():
    judge = Written({("a", "t"): 0.1, ("b", "t"): 0.4, ("c", "t"): 0.3, ("d", "t"): 0.4})
    asked = [
        Sample("0", "nafc", ("a", "b"), ("t",), 0),
        Sample("1", "nafc", ("c", "a", "d", "b"), ("t",), 0),
        Sample("2", "nafc", ("c", "a", "x"), ("t",), 0),
    ]
    assert choices(evaluate("nafc", asked, judge)) == [1, 2, None]


def test_a_question_whose_value_is_missing_is_left_out_and_costs_no_other():
    judge = Written({("r", "a"): 0.2, ("r", "b"): 0.7})
    asked = [
        Sample(f"{i}", "img_2afc", ("r", "a", other), label=0) for i, other in enumerate(("torn", "b", "x"))
    ]
    found = evaluate("img_2afc", asked, judge)
    assert choices(found) == [None, 1, None]
    assert [outcome.error for outcome in found] == ["r: torn", None, "it has no value for one of the choices"]


def test_a_ranking_is_by_likeness_and_keeps_the_gallerys_order():
    gallery = ["a", "b", "c", "d"]
    judge = Written({("q", "a"): 0.1, ("q", "b"): 0.9, ("q", "c"): 0.9, ("q", "d"): 0.5})
    asked = [
        Sample("0", "ir", ("q",), easy=(1,), hard=(2,)),
        Sample("1", "ir", ("q",), easy=(2,), hard=(0,), junk=(1, 3)),  # 2 first, then 0
    ]
    first, second = evaluate("ir", asked, judge, gallery)
    assert first.precisions == (1.0, 1.0)  # b before c; in the hard setting b is junk
    assert second.precisions == (1.0, 1.0)
    third = evaluate("ir", [Sample("2", "ir", ("q",), hard=(2,))], judge, gallery)[0]
    assert third.precisions == ((0 + 1 / 2) / 2, (0 + 1 / 2) / 2)  # b, which is as alike, comes first


def test_a_broken_picture_of_a_gallery_costs_only_queries_that_should_find_it():
    judge = Written({("q", "a"): 0.1, ("q", "b"): 0.9})
    asked = [Sample("0", "ir", ("q",), easy=(1,), hard=(0,)), Sample("1", "ir", ("q",), easy=(2,), hard=(0,))]
    found = evaluate("ir", asked, judge, ["a", "b", "torn"])
    assert found[0].error is None and found[0].precisions == (1.0, 1.0)
    assert found[1].precisions is None and found[1].error == "q: torn"


def test_a_judge_that_cannot_says_so():
    class Mute(Written):
        def alike(self, first: Sequence[str], second: Sequence[str]) -> Values:
            raise Undefined("it cannot")

    for task, images in (("img_2afc", ("a", "b", "c")), ("ooo", ("a", "b", "c"))):
        with pytest.raises(Undefined, match="it cannot"):
            evaluate(task, [Sample("0", task, images, label=0)], Mute({}))  # type: ignore[arg-type]


@pytest.fixture
def embedded(tmp_path: Path) -> EncoderJudge:
    """Random embeddings of pictures p0 to p9 and texts t0 to t9, and of the texts for quality."""
    from reward_plugin.unisim.prompts import QUANTITIES, texts_for

    rng = np.random.default_rng(0)
    store = VectorStore(tmp_path / "e.bin")
    pictures = {f"p{i}": text_key(f"picture {i}") for i in range(10)}
    texts = [f"t{i}" for i in range(10)]
    texts += [
        text for quantity in QUANTITIES for way in ("naive", "clip_iqa") for text in texts_for(quantity, way)
    ]
    keys = list(dict.fromkeys([*pictures.values(), *map(text_key, texts)]))
    drawn = rng.normal(size=(len(keys), 5))
    store.add(keys, (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32))
    return EncoderJudge(
        store, pictures | {"gone": text_key("gone")}, {"gone": "no such file"}, ["naive", "clip_iqa"]
    )


def test_encoders_choose_as_the_published_formulas(embedded: EncoderJudge):
    from reward_plugin.unisim.prompts import texts_for

    rng = np.random.default_rng(1)
    p = {name: embedded.store.get([key])[0] for name, key in embedded.keys.items()}

    def t(text: str) -> np.ndarray:
        return embedded.store.get([text_key(text)])[0]

    for _ in range(20):
        a, b, c = (f"p{i}" for i in rng.choice(10, 3, replace=False))
        u, v = (f"t{i}" for i in rng.choice(10, 2, replace=False))
        expected: dict[Task, tuple[Sample, formulas.Choices]] = {
            "img_2afc": (Sample("0", "img_2afc", (a, b, c), label=0), formulas.img_2afc(p[a], p[b], p[c])),
            "it_2afc": (Sample("0", "it_2afc", (a, b), (u,), 0), formulas.it_2afc(t(u), p[a], p[b])),
            "text_2afc": (Sample("0", "text_2afc", (a,), (u, v), 0), formulas.text_2afc(p[a], t(u), t(v))),
            "ooo": (Sample("0", "ooo", (a, b, c), label=0), formulas.odd_one_out(p[a], p[b], p[c])),
            "nafc": (
                Sample("0", "nafc", (a, b, c), (u,), 0),
                formulas.nafc(t(u), np.stack([p[a], p[b], p[c]])),
            ),
        }
        for task, (sample, right) in expected.items():
            assert evaluate(task, [sample], embedded)[0].choices == {"": int(right.choice)}, task
        rated = evaluate("paa", [Sample("0", "paa", (a, b), label=0, attribute="sharpness")], embedded)[0]
        for way in ("naive", "clip_iqa"):
            texts = np.stack([t(text) for text in texts_for("sharpness", way)])
            scores = formulas.rate(np.stack([p[a], p[b]]), texts)
            assert rated.choices[way] == int(formulas.choose(scores).choice)
        order = formulas.ranking(p[a][None], np.stack([p[b], p[c]]))[0]
        ranked = evaluate("ir", [Sample("0", "ir", (a,), hard=(0,))], embedded, [b, c])[0]
        assert ranked.precisions == ((1.0, 1.0) if order[0] == 0 else (0.25, 0.25))


def test_an_encoder_says_which_picture_it_has_no_embedding_of(embedded: EncoderJudge):
    found = evaluate("img_2afc", [Sample("0", "img_2afc", ("p0", "gone", "p1"), label=0)], embedded)[0]
    assert found.error == "gone: no such file" and not found.choices
