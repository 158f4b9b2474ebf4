import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.preprocess.outlines import area, clockwise, simplified

SQUARE = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
DENTED = torch.tensor([[0.0, 0.0], [2.0, 0.1], [4.0, 0.0], [4.0, 4.0], [2.0, 3.0], [0.0, 4.0]])
point = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32))


def test_area_is_that_of_the_inside_whichever_way_it_turns():
    assert area(SQUARE) == area(SQUARE.flip(0)) == 16
    assert area(SQUARE[:3]) == 8 and area(SQUARE[:2]) == 0


@pytest.mark.parametrize("turned", [SQUARE, SQUARE.flip(0), SQUARE.roll(2, 0)])
def test_polygons_begin_at_the_top_and_turn_clockwise(turned):
    assert clockwise(turned).tolist() == SQUARE.tolist()


def test_the_points_that_show_least_go_first():
    assert simplified([DENTED], 5)[0].tolist() == [[0, 0], [4, 0], [4, 4], [2, 3], [0, 4]]
    assert simplified([DENTED], 4)[0].tolist() == SQUARE.tolist()
    assert simplified([DENTED], 6)[0].tolist() == DENTED.tolist()


def test_small_polygons_go_where_there_is_no_room():
    small = SQUARE / 10
    found = simplified([small, DENTED, SQUARE[:2], SQUARE * 0], 11)
    assert [len(one) for one in found] == [6, 4]  # and one for the gap
    assert [len(one) for one in simplified([small, DENTED], 8)] == [4, 3]
    assert [len(one) for one in simplified([small, DENTED], 6)] == [6]
    assert simplified([DENTED], 2) == []


@given(st.lists(st.lists(point, min_size=1, max_size=12), max_size=4), st.integers(3, 30))
def test_never_more_than_the_most_and_nothing_without_area(rows, most):
    found = simplified([torch.tensor(row) for row in rows], most)
    assert sum(map(len, found)) + max(0, len(found) - 1) <= most
    assert all(len(one) >= 3 for one in found)
