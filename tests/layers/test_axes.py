"""Positions on three axes: words in a line, images on their grids."""

import torch

from foveal.core.types import Layout
from foveal.layers.axes import axial_positions, extent, moments


def laid(*parts):
    """Slots of a row out of words (a number of them) and images (their slots)."""
    slots = [slot for part in parts for slot in ([-1] * part if isinstance(part, int) else part)]
    return torch.tensor([slots])


def test_an_image_lies_on_its_grid_and_words_go_on_after_its_longer_side():
    slots = laid(2, range(6), 2)
    places = axial_positions(slots, slots > -2, Layout.of_grids([(2, 3)]))[0]
    assert places[:2].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert places[2:8].tolist() == [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]]
    assert places[8:].tolist() == [[5, 5, 5], [6, 6, 6]]
    assert extent(slots[0], Layout.of_grids([(2, 3)])) == 7


def test_frames_lie_on_the_axis_of_time():
    film = Layout(counts=(6,), grids=((1, 2),), frames=(3,))
    slots = laid(1, range(6), 1)
    places = axial_positions(slots, slots > -2, film)[0]
    assert places[1:7].tolist() == [[1, 1, 1], [1, 1, 2], [2, 1, 1], [2, 1, 2], [3, 1, 1], [3, 1, 2]]
    assert places[7].tolist() == [3, 3, 3]
    apart = laid(1, [0, 1], 2, [2, 3], 1, [4, 5], 1)
    placed = axial_positions(apart, apart > -2, film.by_frame())[0]
    assert placed[:, 0].tolist() == [0, 1, 1, 3, 4, 5, 5, 7, 8, 8, 10]


def test_frames_may_lie_further_apart_or_together():
    assert moments(4, 2.5) == (0, 2, 5, 7) and moments(3, torch.tensor(0.4)) == (0, 0, 0) and moments(0, 1.0) == ()
    film = Layout(counts=(4, 1), grids=((1, 2), (1, 1)), frames=(2, 1), moments=((0, 7), (0,)))
    slots = laid(1, range(4), 1, [4], 1)
    places = axial_positions(slots, slots > -2, film)[0]
    assert places[1:5].tolist() == [[1, 1, 1], [1, 1, 2], [8, 1, 1], [8, 1, 2]]
    assert places[5:].tolist() == [[3] * 3, [4] * 3, [5] * 3] and extent(slots[0], film) == 6


def test_padding_counts_for_nothing_on_either_side():
    layout = Layout.of_grids([(2, 2), (1, 1)])
    rows = [laid(1, range(4), 2), laid(3, [4])]
    alone = [axial_positions(row, row > -2, layout)[0] for row in rows]
    for side in (0, 1):
        slots, valid = torch.full((2, 9), -1), torch.zeros(2, 9, dtype=torch.bool)
        spans = [slice(9 - row.shape[1], 9) if side else slice(0, row.shape[1]) for row in rows]
        for number, (row, span) in enumerate(zip(rows, spans, strict=True)):
            slots[number, span], valid[number, span] = row[0], True
        both = axial_positions(slots, valid, layout)
        assert not both[~valid].any()
        for number, span in enumerate(spans):
            assert torch.equal(both[number, span], alone[number])


def test_without_a_grid_tokens_are_as_words():
    slots = laid(2, range(3), 1)
    layout = Layout(counts=(3,), grids=(None,))
    places = axial_positions(slots, slots > -2, layout, first=torch.tensor([4]))
    assert places.tolist() == [[[place] * 3 for place in range(4, 10)]]
    words = laid(3)
    assert torch.equal(axial_positions(words, words > -2, Layout.of_grids([]))[0, :, 0], torch.arange(3))


def test_places_of_one_who_only_looked_serve_who_learns():
    slots, layout = laid(1, range(35)), Layout.of_grids([(5, 7)])
    with torch.inference_mode(), torch.device("meta"):
        extent(slots[0], layout)
    places = axial_positions(slots, slots > -2, layout)
    assert not places.is_inference() and places[0, -1].tolist() == [1, 5, 7]
