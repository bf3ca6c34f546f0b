"""Draws depend on the seed and on names: not on the order of rows, nor on which others there are."""

from collections import Counter
from itertools import combinations

import pytest

from eval.unisim.draw import below, chosen, evenly, pairs, placed, triplets


def test_draws_are_even_and_depend_on_every_part() -> None:
    counts = Counter(below(4, 0, "koniq", turn) for turn in range(8000))
    assert set(counts) == {0, 1, 2, 3}
    assert all(1800 < count < 2200 for count in counts.values())  # 4.9 standard deviations
    assert [below(10**9, 0, "a")] != [below(10**9, 1, "a")] != [below(10**9, 1, "b")]
    assert below(10**9, "ab", "c") != below(10**9, "a", "bc")


def test_the_right_one_is_first_half_of_the_time() -> None:
    placements = [placed("right", "wrong", 0, turn) for turn in range(4000)]
    assert all(pair[label] == "right" and pair[1 - label] == "wrong" for pair, label in placements)
    assert 1850 < sum(label for _, label in placements) < 2150


def test_what_is_chosen_keeps_its_order_and_survives_missing_rows() -> None:
    items = [f"row {i}" for i in range(50)]
    some = chosen(items, 20, str, 0, "x")
    assert some == [item for item in items if item in some] and len(some) == 20
    assert set(chosen(items[::-1], 20, str, 0, "x")) == set(some) != set(chosen(items, 20, str, 1, "x"))
    assert set(chosen([item for item in items if item != some[3]], 20, str, 0, "x")) >= set(some) - {some[3]}
    assert chosen(items, None, str, 0) == items == chosen(items, 50, str, 0)


def test_groups_are_drawn_from_evenly_as_far_as_they_reach() -> None:
    groups = {"a": [f"a{i}" for i in range(9)], "b": ["b0", "b1"], "c": [f"c{i}" for i in range(9)]}
    drawn = evenly(groups, 11, str, 0)
    sizes = sorted(Counter(item[0] for item in drawn).items())
    assert len(drawn) == 11 and sizes[1] == ("b", 2) and {size for _, size in sizes} <= {2, 4, 5}
    assert evenly(groups, None, str, 0) == [item for items in groups.values() for item in items]
    same = {"a": ["x", "x"], "b": ["x"]}  # one object in three places is three items
    assert len(evenly(same, 2, str, 0)) == 2 and len(evenly(same, None, str, 0)) == 3


def test_all_pairs_come_once_in_either_order() -> None:
    found = list(pairs(9, 0, "koniq"))
    assert len(found) == 36 and {tuple(sorted(pair)) for pair in found} == set(combinations(range(9), 2))
    assert any(a > b for a, b in found) and any(a < b for a, b in found)
    assert list(pairs(9, 1, "koniq")) != found == list(pairs(9, 0, "koniq"))
    assert list(pairs(1, 0)) == [] == list(pairs(0, 0))


def test_triplets_have_two_of_a_kind_and_do_not_repeat() -> None:
    groups = {"one": [["a1", "a2"], ["a3"]], "two": [["b1", "b2", "b3"]], "three": [["c1", "c2"]]}
    found = list(triplets(groups, 60, 0))
    for images, label in found:
        same = [image for place, image in enumerate(images) if place != label]
        assert same[0][0] == same[1][0] != images[label][0] and same[0] != same[1]
    kinds = {(frozenset(images), images[label]) for images, label in found}
    assert len(kinds) == len(found) == 3 * 5 + 3 * 5 + 1 * 6  # two of a group with one of the others
    assert Counter(label for _, label in found).keys() == {0, 1, 2}


def test_triplets_end_when_there_are_no_more() -> None:
    found = list(triplets({"one": [["a1", "a2"]], "two": [["b1", "b2"]]}, 100, 0))
    assert len(found) == 4  # two of the one with either of the other, and the reverse


@pytest.mark.parametrize("groups", [{"a": [["1", "2"]]}, {"a": [["1", "2"]], "b": [["3"]]}])
def test_triplets_need_two_groups_of_two(groups: dict[str, list[list[str]]]) -> None:
    with pytest.raises(ValueError, match="two groups"):
        next(triplets(groups, 1, 0))
