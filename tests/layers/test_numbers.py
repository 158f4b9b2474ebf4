import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.layers.numbers import Numbers, numbered


def stream(slots, **more):
    slots = torch.tensor(slots)
    return Stream(hidden=torch.zeros(*slots.shape, 3), positions=torch.zeros_like(slots), slots=slots, **more)


def visual(*counts):
    layout = Layout(counts=counts, grids=(None,) * len(counts))
    return VisualTokens.on_layout(torch.zeros(layout.total, 3), layout)


def test_each_row_counts_the_images_that_it_shows():
    slots = [[-1, 0, 1, -1, 2, 2, -1], [2, -1, 0, 1, 0, 1, -1], [-1] * 7]  # one is shown twice, one in two rows
    assert numbered(stream(slots), visual(2, 1)).tolist() == [
        [0, 0, 0, 0, 1, 2, 0], [0, 0, 1, 1, 2, 2, 0], [0] * 7
    ]  # fmt: skip


def test_conversations_in_one_row_count_apart():
    packed = stream([[0, -1, 1, 2, 3, -1]], segment=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    assert numbered(packed, visual(1, 1, 1, 1)).tolist() == [[0, 0, 1, 0, 1, 0]]
    fanned = stream([[0, -1, 1, -1, 1, 2]], branch=torch.tensor([[0, 0, 1, 1, 2, 2]]))
    assert numbered(fanned, visual(1, 1, 1)).tolist() == [[0, 0, 1, 0, 1, 2]]


def test_more_images_than_numbers_are_refused():
    layer = Numbers(images=2, width=3)
    assert layer(stream([[0, 1]]), visual(1, 1)).shape == (1, 2, 3)
    with pytest.raises(InputError, match=r"a row of 3 images for a fusion that tells 2 apart; raise fusion\.images"):
        layer(stream([[0, 1, 2]]), visual(1, 1, 1))
