import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.relevance.tree import depth_of, tree_of

GRIDS = st.tuples(st.integers(1, 13), st.integers(1, 13))


@given(GRIDS, st.data())
@settings(deadline=None, max_examples=60)
def test_every_level_holds_each_patch_once_and_the_last_one_alone(grid, data):
    floor = tuple(data.draw(st.integers(1, side)) for side in grid)
    tree, patches = tree_of(grid, floor), grid[0] * grid[1]
    assert len(tree.rectangles) == 2 ** (tree.depth + 1) - 1 and tree.depth == depth_of(grid, floor)
    at = torch.arange(patches)
    for place in tree.place:
        row0, col0, row1, col1 = tree.rectangles[place].T
        assert ((row0 <= at // grid[1]) & (at // grid[1] < row1) & (col0 <= at % grid[1]) & (at % grid[1] < col1)).all()
    row0, col0, row1, col1 = tree.rectangles[tree.place[-1]].T
    assert ((row1 - row0) * (col1 - col0) == 1).all()
    assert int(tree.splits.sum()) == patches - 1  # each split makes one rectangle more
    assert int((tree.forced & tree.splits).sum()) == floor[0] * floor[1] - 1


@pytest.mark.parametrize(("grid", "floor"), [((8, 8), (2, 2)), ((5, 9), (2, 3)), ((7, 3), (7, 3))])
def test_the_cells_of_the_floor_are_what_forced_splits_leave(grid, floor):
    tree = tree_of(grid, floor)
    below = {0}
    for place in range(len(tree.splits)):
        if place in below and tree.forced[place]:
            below = below - {place} | {2 * place + 1, 2 * place + 2}
    cells = tree.rectangles[sorted(below)]
    assert len(cells) == floor[0] * floor[1]
    for axis in (0, 1):
        begins = [cell * grid[axis] // floor[axis] for cell in range(floor[axis])]
        assert sorted(set(cells[:, axis].tolist())) == begins


def test_longer_sides_are_halved_first():
    tree = tree_of((2, 4))
    assert tree.rectangles[:7].tolist() == [
        [0, 0, 2, 4], [0, 0, 2, 2], [0, 2, 2, 4], [0, 0, 2, 1], [0, 1, 2, 2], [0, 2, 2, 3], [0, 3, 2, 4],
    ]  # fmt: skip


def test_a_tree_is_grown_once_and_serves_who_learns_after_who_only_looked():
    with torch.inference_mode():
        known = tree_of((11, 6))
    assert tree_of((11, 6)) is known and tree_of((11, 6), (2, 2)) is not known
    values = torch.randn(66, 3, requires_grad=True)
    (values * 2).gather(0, known.place[0][:, None].expand(-1, 3)).sum().backward()  # keeps the places for later
    assert values.grad.sum() == 66 * 3 * 2
