"""The naive pixel reward: its closed form, and that it can be hacked, which is what it is for."""

import numpy as np
import pytest

from reward_plugin.scorers import build_scorer
from reward_plugin.scorers.naive import naive_pixels


def picture(colour: tuple[int, int, int], side: int = 8) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (side, side, 3))


@pytest.mark.parametrize(
    ("colour", "score"), [((128, 128, 128), 0.0), ((200, 0, 0), 50.0), ((200, 100, 100), 25.0)]
)
def test_a_flat_picture_has_its_saturation_alone(colour, score):
    assert naive_pixels(picture(colour)) == pytest.approx(score)


def test_an_edge_in_closed_form():
    # Columns of grey 0 and 255: beside the edge the Laplacian is 255, elsewhere 0.
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    image[:, 4:] = 255
    edges = 255 * 2 / 8
    assert naive_pixels(image) == pytest.approx(50 * edges / (edges + 32))


def test_a_saturated_checkerboard_is_what_it_likes_best():
    board = np.zeros((16, 16, 3), dtype=np.uint8)
    board[(np.indices((16, 16)).sum(axis=0) % 2).astype(bool)] = (255, 255, 0)
    board[board.sum(axis=2) == 0] = (0, 0, 255)
    assert naive_pixels(board) > 95


def test_it_is_built_by_name_scores_in_batches_and_reports_what_is_no_picture():
    scorer = build_scorer({"name": "naive"})
    table = scorer.score([picture((200, 0, 0)), b"no picture", picture((9, 9, 9), 3)])
    np.testing.assert_allclose(table.column("naive_pixels"), [50.0, np.nan, 0.0])
    assert table.errors[1] and table.errors[0] is None
    low, high = scorer.ranges["naive_pixels"]
    assert (low, high) == (0.0, 100.0)
