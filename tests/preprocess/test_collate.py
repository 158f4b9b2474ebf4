import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Layout
from foveal.preprocess.collate import collate, laid, lengths, pack, pictures, same_images, size, split, trunk
from foveal.preprocess.image import Whole
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.tokens import Encoded


@pytest.fixture
def said(example):
    def make(ids, answers=0, images=("a",)):
        ids = np.array(ids)
        loss = np.arange(len(ids)) >= len(ids) - answers
        whole = example("q", pictures=images)
        return Encoded(example=whole, ids=ids, loss=loss, prompt=len(ids) - answers, where="row 1")

    return make


def test_images_become_their_slots(said):
    one = said([5, -1, 6, -2, 7, 8], answers=2, images=("a", "b"))
    assert lengths(one, [3, 2]).tolist() == [1, 3, 1, 2, 1, 1]
    tokens = laid(one, [3, 2], [10, 20], 99, slice(None))
    assert tokens.ids.tolist() == [5, 99, 99, 99, 6, 99, 99, 7, 8]
    assert tokens.slots.tolist() == [-1, 10, 11, 12, -1, 20, 21, -1, -1]
    assert tokens.labels.tolist() == [IGNORE] * 7 + [7, 8]
    assert tokens.prompt.tolist() == [True] * 7 + [False] * 2
    assert laid(one, [0, 0], [0, 0], 99, slice(None)).ids.tolist() == [5, 6, 7, 8]


def test_a_trunk_ends_before_the_last_word_of_any_question(said):
    assert trunk([said([1, 2, 3, 4, 9], 1), said([1, 2, 5, 9], 1)]) == 2
    assert trunk([said([1, 2, 3, 9], 1), said([1, 2, 3, 8], 1)]) == 2  # equal questions
    assert trunk([said([1, 2, 9], 1), said([1, 2, 3, 4, 8], 1)]) == 1
    assert trunk([said([4, 9], 1), said([5, 9], 1)]) == 0
    assert trunk([said([4, 5, 9], 1)]) == 0


def test_groups_too_long_for_a_row_repeat_their_trunk(said):
    group = [said([1, -1, 2, 10 + i, 9], 1) for i in range(5)]
    assert size(group, [4]) == 6 + 5 * 2
    parts = split(group, [4], 10)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert all(size(part, [4]) <= 10 for part in parts)
    assert [one for part in parts for one in part] == group


@given(st.lists(st.integers(1, 20), max_size=40))
def test_packing_loses_nothing_and_fits(sizes):
    rows = pack(sizes, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= 20 for row in rows)
    assert len(rows) <= 2 * -(-sum(sizes) // 20) or len(rows) <= 1


def test_what_no_row_holds():
    with pytest.raises(InputError, match="a conversation of 30 tokens for rows of 20; raise the row length"):
        pack([3, 30], 20)


def test_equal_pictures_can_be_seen_once(said):
    picture = object()
    groups = [[said([1], images=("a", picture))], [said([1], images=("a",))], [said([1], images=(picture,))]]
    assert pictures(groups) == (["a", picture, "a", picture], [[0, 1], [2], [3]])
    assert pictures(groups, shared=True) == (["a", picture], [[0, 1], [0], [1]])
    whole = [Whole(image="a"), Whole(image=picture)]
    made = pictures([groups[0], *groups], shared=True, tiling=Tiling(alone=True))
    assert made == ([*whole, "a", picture], [[0, 1], [0, 1], [2], [3]])
    assert same_images([said([1], images=("a",)), said([1], images=("a",))])
    assert not same_images([said([1], images=("a",)), said([1], images=("b",))])


def test_rows_of_many_conversations(said):
    trunked = [said([1, -1, 2, 3, 9], 1), said([1, -1, 4, 8, 8], 2)]
    alone = said([6, 7], 1, images=())
    layout = Layout(counts=(2,), grids=((1, 2),))
    batch = collate([[trunked, [alone]]], layout, [[0], []], padding="right", pad=0, fill=99, length=14)
    assert batch.input_ids.tolist() == [[1, 99, 99, 2, 3, 9, 4, 8, 8, 6, 7, 0, 0, 0]]
    assert batch.image_slot.tolist() == [[-1, 0, 1] + [-1] * 11]
    assert batch.segment.tolist() == [[0] * 9 + [1] * 2 + [-1] * 3]
    assert batch.branch.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1, 0, 0, 0]]
    assert batch.labels[0, [5, 7, 8, 10]].tolist() == [9, 8, 8, 7]
    assert batch.prompt[0].tolist() == [True] * 5 + [False, True, False, False, True] + [False] * 4
    assert batch.valid.sum() == 11
    assert batch.owner.tolist() == [0]
    assert not batch.full


def test_groups_of_one_trunk_length_lie_as_a_fan(said):
    groups = [[said([1, -1, 2, 3, 9], 1), said([1, -1, 4, 8], 1)], [said([1, -1, 2, 9], 1), said([1, -1, 3, 9], 1)]]
    layout = Layout(counts=(2, 2), grids=((1, 2),) * 2)
    batch = collate([[group] for group in groups], layout, [[0], [1]], padding="right", pad=0, fill=99)
    assert (batch.fan.trunk, batch.fan.branches, batch.fan.length) == (3, 2, 3)
    assert batch.input_ids.tolist() == [[1, 99, 99, 2, 3, 9, 4, 8, 0], [1, 99, 99, 2, 9, 0, 3, 9, 0]]
    assert batch.valid.tolist() == [[True] * 8 + [False], [True] * 5 + [False, True, True, False]]


def test_a_full_batch_says_so(said):
    rows = [[[said([1, 2], images=())]], [[said([3, 4], images=())]]]
    empty = Layout(counts=(), grids=())
    batch = collate(rows, empty, [[], []], padding="left", pad=0, fill=9)
    assert batch.full
    assert batch.positions is None
    assert batch.segment is None
    assert batch.branch is None
    longer = collate([*rows, [[said([5, 6, 7], images=())]]], empty, [[], [], []], padding="left", pad=0, fill=9)
    assert not longer.full
    assert longer.input_ids[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("positions", ["grid", "frames"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_images_lie_on_their_grids_wherever_a_conversation_stands(said, padding, positions):
    """Alone, in a row with others, as a branch after a trunk: a conversation's tokens stand where they would alone."""
    layout = Layout(counts=(6, 4, 8), grids=((2, 3), (2, 2), (2, 2)), frames=(1, 1, 2))
    way = {"padding": padding, "pad": 0, "fill": 99, "positions": positions}
    branches = [said([1, -1, 2, 10 + i, 20 + i, 9], 1) for i in range(2)]
    film = said([3, -1, 4, 5, 9], 1, images=("c",))
    other = said([7, -1, 8, 9], 1, images=("b",))
    batch = collate([[branches, [film]], [[other]]], layout, [[0], [2], [1]], **way)
    assert batch.positions.shape == (*batch.input_ids.shape, 3) and not batch.positions[~batch.valid].any()

    def alone(one, image):
        row = collate([[[one]]], layout, [[image]], **way)
        return row.positions[0][row.valid[0]]

    first = batch.valid[0] & (batch.segment[0] == 0)
    for number, one in enumerate(branches, 1):
        mine = first & ((batch.branch[0] == 0) | (batch.branch[0] == number))
        assert (batch.positions[0][mine] == alone(one, 0)).all()
    assert (batch.positions[0][batch.valid[0] & (batch.segment[0] == 1)] == alone(film, 2)).all()
    assert (batch.positions[1][batch.valid[1]] == alone(other, 1)).all()
    times = alone(film, 2)[1:9, 0].tolist()
    assert times == ([1, 1, 1, 1, 2, 2, 2, 2] if positions == "grid" else [1, 1, 1, 1, 3, 3, 3, 3])
