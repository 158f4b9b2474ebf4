import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.types import IGNORE
from foveal.preprocess.cells import cells
from foveal.preprocess.transform import ImageTransform


def found(boxes, tokens, *, size=(40, 40), mode="square", grid=(4, 4), **settings):
    made = cells(boxes, tokens, size=size, transform=ImageTransform(size=80, mode=mode), grid=grid, **settings)
    return made.reshape(grid)


def test_the_box_that_covers_a_cell_most_names_it():
    made = found([(0, 0, 20, 20), (15, 0, 40, 20)], [5, 6])
    assert made[:2].tolist() == [[5, 5, 6, 6], [5, 5, 6, 6]]
    assert (made[2:] == IGNORE).all()


def test_of_two_that_cover_a_cell_whole_the_smaller_wins():
    assert found([(0, 0, 40, 40), (10, 10, 20, 20)], [5, 6])[1, 1] == 6
    assert found([(10, 10, 20, 20), (0, 0, 40, 40)], [6, 5])[1, 1] == 6


def test_a_sliver_does_not_count_but_a_tiny_box_keeps_its_cell():
    assert found([(0, 0, 11, 10)], [5]).tolist()[0] == [5, IGNORE, IGNORE, IGNORE]
    tiny = found([(31, 31, 33, 33)], [7], background=9)
    assert tiny[3, 3] == 7
    assert (tiny == 9).sum() == 15
    assert found([(0, 0, 40, 40), (31, 31, 33, 33)], [5, 7])[3, 3] == 5


def test_boxes_follow_the_image_into_its_transform():
    wide = {"size": (20, 40), "mode": "letterbox"}
    assert found([(0, 0, 20, 20)], [5], **wide).tolist() == [
        [-100] * 4,
        [5, 5, -100, -100],
        [5, 5, -100, -100],
        [-100] * 4,
    ]
    assert found([(0, 0, 20, 20)], [5], size=(20, 40), mode="square")[:, :2].eq(5).all()
    crop = found([(0, 0, 20, 20)], [5], size=(20, 40), mode="shortest_crop")
    assert crop.tolist() == [[5, 5, -100, -100]] * 4


def test_without_boxes_there_is_background_alone():
    assert found([], []).eq(IGNORE).all()
    assert found([], [], background=3).eq(3).all()
    assert found([(100, 100, 200, 200)], [5]).eq(IGNORE).all()  # outside the picture


@given(
    boxes=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(1, 10), st.floats(1, 10)), min_size=1, max_size=6
    ),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_against_counting_points(boxes, grid):
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    made = found(corners, list(range(len(corners))), grid=grid, least=0.0)
    fine = 24
    y = (np.arange(grid[0] * fine) + 0.5) * 40 / (grid[0] * fine)
    x = (np.arange(grid[1] * fine) + 0.5) * 40 / (grid[1] * fine)
    shares = []
    for left, top, right, bottom in corners:
        inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None]
        shares.append(inside.reshape(grid[0], fine, grid[1], fine).mean(axis=(1, 3)))
    shares = torch.tensor(np.stack(shares))
    best = shares.max(0).values
    named = made != IGNORE
    chosen = shares.gather(0, made.clamp(min=0)[None])[0]
    error = 2 / fine + 1 / fine**2
    assert (chosen[named] >= best[named] - 2 * error).all()
    assert (best[~named] <= error).all()
