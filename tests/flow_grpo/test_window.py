"""Windows, prompt order and seeds: functions of the run's seed and the iteration alone."""

import pytest
import torch

from flow_grpo.noise import normal, seed_of
from flow_grpo.order import cursor, prompts_of_iteration, shard
from flow_grpo.prompts import Prompt
from flow_grpo.run import hold_back
from flow_grpo.window import WindowConfig, draw_window, window_bounds


def test_all_leaves_out_the_last_step():
    assert list(draw_window(WindowConfig("all"), 6, seed=0, iteration=3)) == [0, 1, 2, 3, 4]


def test_fixed_is_the_same_every_iteration():
    config = WindowConfig("fixed", size=2, start=1)
    assert {tuple(draw_window(config, 6, 0, i)) for i in range(20)} == {(1, 2)}


def test_random_windows_cover_their_range_and_never_the_last_step():
    config = WindowConfig("random", size=3, start=1, stop=7)
    drawn = [draw_window(config, 8, seed=5, iteration=i) for i in range(200)]
    assert {window.start for window in drawn} == {1, 2, 3, 4}
    assert all(len(window) == 3 and window.stop <= 7 for window in drawn)


def test_random_window_stops_at_half_of_the_steps_unless_told():
    assert window_bounds(WindowConfig("random", size=3), 28) == (0, 14)
    assert window_bounds(WindowConfig("random", size=3), 5) == (0, 3)


def test_window_depends_on_seed_and_iteration_alone():
    config = WindowConfig("random", size=1, stop=7)
    first = [draw_window(config, 8, 0, i) for i in range(50)]
    torch.manual_seed(123)
    assert first == [draw_window(config, 8, 0, i) for i in range(50)]
    assert first != [draw_window(config, 8, 1, i) for i in range(50)]


def starts(config, num_steps, iterations):
    return [draw_window(config, num_steps, 0, iteration).start for iteration in range(iterations)]


def test_a_progressive_window_moves_on_and_begins_again():
    """MixGRPO's published setting: 4 of 25 steps, 25 iterations at each place, one step further each time."""
    config = WindowConfig("progressive", size=4, interval=25)
    places = starts(config, 25, 800)
    # The published 300 iterations see places 0 to 11; there the window is empty at the end of its range, here
    # the last place is 20, the last at which it is whole without the deterministic step.
    assert places[:300] == [place for place in range(12) for _ in range(25)]
    assert places[300:525] == [place for place in range(12, 21) for _ in range(25)]
    assert places[525:] == places[:275]
    assert all(len(draw_window(config, 25, 0, i)) == 4 for i in range(0, 800, 25))


def test_without_roll_back_a_progressive_window_stays_at_its_last_place():
    config = WindowConfig("progressive", size=2, start=1, stop=6, interval=3, stride=2, roll_back=False)
    # A stride of 2 from 1 would pass over 4, the last place: the last move is shorter.
    assert starts(config, 8, 12) == [1, 1, 1, 3, 3, 3, 4, 4, 4, 4, 4, 4]
    rolling = WindowConfig("progressive", size=2, start=1, stop=6, interval=3, stride=2)
    assert starts(rolling, 8, 12) == [1, 1, 1, 3, 3, 3, 4, 4, 4, 1, 1, 1]


def test_a_decaying_window_stays_for_less_where_there_is_less_noise():
    config = WindowConfig("progressive", size=4, interval=25, decay=0.1, decay_after=13)
    stays = [starts(config, 25, 473).count(place) for place in range(21)]
    # Published: ceil(25 exp(-0.1 relu(start - 13))).
    assert stays[:14] == [25] * 14 and stays[14:] == [23, 21, 19, 17, 16, 14, 13]


def test_a_stride_that_is_the_window_leaves_no_step_out_and_takes_none_twice():
    config = WindowConfig("progressive", size=3, interval=1, stride=3)
    assert [list(draw_window(config, 7, 0, i)) for i in range(3)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("key, value", [("interval", 0), ("stride", 0), ("decay", -0.1), ("decay_after", -1)])
def test_a_schedule_out_of_range_is_named(key, value):
    with pytest.raises(ValueError, match=rf"sampler\.window\.{key} is {value}: it must be"):
        draw_window(WindowConfig("progressive", **{key: value}), 8, 0, 0)


@pytest.mark.parametrize(
    "config, num_steps",
    [
        (WindowConfig("progressive", size=4), 4),
        (WindowConfig("progressive", size=3, stop=8), 8),
        (WindowConfig("all"), 1),
        (WindowConfig("fixed", size=0), 6),
        (WindowConfig("fixed", size=3, start=3), 6),
        (WindowConfig("random", size=3, start=0, stop=6), 6),
        (WindowConfig("random", size=3, start=2, stop=4), 6),
        (WindowConfig("random", size=2, start=-1), 6),
    ],
)
def test_an_empty_window_or_one_with_the_last_step_is_refused(config, num_steps):
    with pytest.raises(ValueError, match=r"sampler\.window.*Lower size or start, or raise num_steps"):
        window_bounds(config, num_steps)


def test_seeds_are_the_same_in_every_process_and_version():
    assert seed_of(1, "train", 2, 3, 4) == 317288915935957245


def test_seeds_differ_in_every_part_of_the_identity():
    seeds = {
        seed_of(s, "train", i, p, m) for s in range(3) for i in range(3) for p in range(3) for m in range(3)
    }
    assert len(seeds) == 81 and all(0 <= seed < 2**63 for seed in seeds)


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    assert torch.equal(normal([1, 2, 3], (4, 5))[1], normal([2], (4, 5))[0])


def test_an_epoch_uses_each_prompt_once_and_the_next_another_order():
    first = [p for i in range(3) for p in prompts_of_iteration(i, 12, 4, seed=0)]
    second = [p for i in range(3, 6) for p in prompts_of_iteration(i, 12, 4, seed=0)]
    assert sorted(first) == sorted(second) == list(range(12)) and first != second


def test_an_iteration_never_has_a_prompt_twice_where_the_epoch_does_not_divide():
    for iteration in range(20):
        prompts = prompts_of_iteration(iteration, 10, 4, seed=0)
        assert len(set(prompts)) == 4
    assert cursor(5, 10, 4).epoch == 2 and cursor(5, 10, 4).offset == 4


def test_shards_in_order_of_rank_are_the_whole():
    assert [g for rank in range(4) for g in shard(8, rank, 4)] == list(range(8))


def test_prompts_held_back_are_spread_over_the_file_and_never_trained_on():
    prompts = [Prompt(str(i), index=i) for i in range(10)]
    train, held_out = hold_back(prompts, 3)
    assert [prompt.index for prompt in held_out] == [1, 5, 8]
    assert sorted(prompt.index for prompt in train + held_out) == list(range(10))
    assert hold_back(prompts, 0) == (prompts, [])
    assert len(hold_back(prompts, 99)[0]) == 0
