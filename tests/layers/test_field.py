"""Tiles on one fine grid: each cell where it lies in the image, fine where it was read and coarse elsewhere."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.types import Cut, Layout, VisualTokens
from foveal.layers.field import field, fields, gated, laid, needed, of_tiles, shown
from foveal.layers.mosaic import Joined, Mosaic

CELLS = (4, 4)
CUTS = (
    Cut(tile=(32, 32), size=(64, 96), grid=(2, 3)),
    Cut(tile=(32, 32), size=(9, 9)),
    Cut(tile=(32, 32), size=(40, 20), grid=(2, 2), view="last", padded=True),
)
JOINED = Joined(width=2, settings=Mosaic(order="raster", newline=True))


def tiles_of(cuts=CUTS):
    """Tokens that say where in their image they lie (column, row of their middles); padding says -9."""
    layout = Layout.of_grids([CELLS] * sum(cut.tiles for cut in cuts))
    parts = []
    for cut in cuts:
        for row, column in cut.spots:
            here = VisualTokens.on_layout(torch.zeros(16, 1), Layout.of_grids([CELLS])).boxes
            middle = torch.stack([here[:, 0] + here[:, 2], here[:, 1] + here[:, 3]], 1) / 2
            if row >= 0:
                high, wide = shown(cut, CELLS)
                place = (middle + torch.tensor([float(column), float(row)])) * 4  # in cells of all tiles
                size = torch.tensor([float(wide.stop - wide.start), float(high.stop - high.start)])
                middle = (place - torch.tensor([float(wide.start), float(high.start)])) / size
                middle = torch.where(((middle < 0) | (middle > 1)).any(1, keepdim=True), -9.0, middle)
            parts.append(middle)
    return VisualTokens.on_layout(torch.cat(parts), layout)


@pytest.mark.parametrize("read", [True, False])
def test_every_cell_lies_where_its_box_says(read):
    tiles = tiles_of()
    there = torch.full((len(tiles.layout.counts),), float(read))
    made = laid(tiles, CUTS, JOINED(tiles, CUTS), there, budget=8)
    assert made.layout.grids == ((8, 12), CELLS, (8, 4))
    assert made.layout == fields(tiles.layout, CUTS, JOINED.plan(tiles.layout, CUTS), 8)
    middle = (made.boxes[:, :2] + made.boxes[:, 2:]) / 2
    far = (made.features - middle).abs().max()
    assert far < (1e-6 if read else 0.13)  # the view's cells are a quarter of the side


def test_what_was_not_read_is_what_the_view_says_and_the_rest_is_fine():
    tiles = tiles_of()
    there = torch.tensor([1.0, 1, 0, 1, 0, 0, 0] + [1] + [0] * 5)
    made = laid(tiles, CUTS, JOINED(tiles, CUTS), there, budget=8)
    middle = (made.boxes[:, :2] + made.boxes[:, 2:]) / 2
    exact = ((made.features - middle).abs().amax(1) < 1e-6)[:96].view(8, 12)
    assert exact[:4, :4].all() and exact[:4, 8:].all() and not exact[:4, 4:8].any() and not exact[4:].any()


def test_images_within_the_budget_stay_as_they_are_joined():
    tiles = tiles_of()
    joined = JOINED(tiles, CUTS)
    made = laid(tiles, CUTS, joined, torch.ones(13), budget=60)
    assert made.layout.counts == (96, *joined.layout.counts[1:])
    assert torch.equal(made.features[96:], joined.features[joined.layout.offsets[1] :])
    same = laid(tiles, CUTS, joined, torch.ones(13), budget=999)
    assert torch.equal(same.features, joined.features) and same.layout == joined.layout


def test_what_a_view_is_worth_is_shared_among_the_tiles_below_it():
    cut = CUTS[0]
    share = torch.zeros(4, 4)
    share[0, 0], share[3, 3] = 0.75, 0.25
    made = of_tiles(share.flatten(), cut, CELLS)
    torch.testing.assert_close(made, torch.tensor([0.0, 0.75, 0.0, 0.0, 0.0, 0.0, 0.25]))
    torch.testing.assert_close(of_tiles(torch.full((16,), 1 / 16), CUTS[2], CELLS).sum(), torch.tensor(1.0))
    assert needed(made, 0.7).tolist() == [False, True, False, False, False, False, False]
    assert needed(made, 1.0).sum() == 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.05, 1))
def test_no_tile_that_is_needed_can_be_left_out(worth, cover):
    share = torch.tensor(worth)
    chosen = needed(share, cover)
    held = share[chosen].sum()
    assert held >= cover * share.sum() - 1e-4
    if chosen.sum() > 1:
        assert held - share[chosen].min() < cover * share.sum()


def test_who_chooses_tiles_learns_what_each_would_show():
    cut, tiles = CUTS[0], tiles_of(CUTS[:1])
    joined = JOINED(tiles, CUTS[:1])
    share = torch.tensor([0.0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).requires_grad_()
    there = gated(needed(share.detach(), 0.5), share)
    assert there.tolist() == [0, 1, 0, 0, 0, 0, 0]
    plain = laid(tiles, [cut], joined, there.detach(), budget=8).features
    made = laid(tiles, [cut], joined, there, budget=8).features
    assert torch.equal(made, plain)  # what is seen does not change
    wanted = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    every, none = (laid(tiles, [cut], joined, torch.full((7,), one), budget=8).features for one in (1.0, 0.0))
    gain = ((every - none) * wanted).sum(1).unflatten(0, (2, 4, 3, 4)).sum((1, 3)).flatten()
    (mine,) = torch.autograd.grad((made * wanted).sum(), there)
    torch.testing.assert_close(mine, torch.cat([torch.zeros(1), gain]))
    soft = gated(torch.ones(7, dtype=torch.bool), share)  # as many as there are, by shares
    torch.testing.assert_close(torch.autograd.grad(soft[3], share)[0], 7 * (torch.eye(7)[3] - share.detach()[3]))


def test_a_field_is_the_images_part_of_its_tiles():
    assert [field(cut, CELLS) for cut in CUTS] == [(8, 12), (4, 4), (8, 4)]


@pytest.mark.parametrize(
    ("size", "grid"), [((7, 300), (1, 8)), ((300, 7), (8, 1)), ((1, 7900), (1, 8)), ((7900, 1), (8, 1))]
)
def test_a_sliver_thinner_than_a_cell_keeps_one_across(size, grid):
    """Its tiles hold nothing of it that a raster would show; a budget still has something to be spent on."""
    cut = Cut(tile=(32, 32), size=size, grid=(2, 2), padded=True)
    assert field(cut, CELLS) == grid
    tiles = VisualTokens.on_layout(torch.rand(5 * 16, 2), Layout.of_grids([CELLS] * 5))
    made = laid(tiles, (cut,), JOINED(tiles, (cut,)), torch.ones(5), budget=8)
    assert made.layout.grids == (grid,) and made.boxes.min() >= 0 and made.boxes.max() <= 1
    assert of_tiles(torch.full((16,), 1 / 16), cut, CELLS).sum() > 0


@pytest.mark.parametrize("budget", [8, 60])
def test_levels_share_the_field(budget):
    """Of images on one grid as of those that stay as they are joined."""
    tiles, there = tiles_of(), torch.tensor([1.0, 1, 0, 1, 0, 0, 0] + [1] + [0] * 5)
    plain = laid(tiles, CUTS, JOINED(tiles, CUTS), there, budget=budget)
    deep = replace(tiles, levels=(3 * tiles.features, 5 - tiles.features[:, :1]))
    made = laid(deep, CUTS, JOINED(deep, CUTS), there, budget=budget)
    assert torch.equal(made.features, plain.features) and made.layout == plain.layout
    ends = (made.features == JOINED.newline).all(1)
    assert bool(ends.any()) == (budget == 60)
    torch.testing.assert_close(made.levels[0][~ends], 3 * made.features[~ends])
    torch.testing.assert_close(made.levels[1][~ends], 5 - made.features[~ends, :1])
    assert not any(level[ends].any() for level in made.levels)
