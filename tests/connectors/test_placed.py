"""Pix2Seq's projection; its numbers are checked with the whole model in tests/weights."""

import pytest
import torch

from foveal.connectors.placed import Placed
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


def test_images_of_any_grid_get_their_places():
    connector = Placed(width_in=4, width_out=8)
    seen = VisualTokens.on_layout(torch.ones(10, 4), Layout.of_grids([(2, 2), (3, 2)]))
    placed = connector(seen).features
    torch.testing.assert_close(placed[0] - placed[1], placed[2] - placed[3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(placed[0], placed[1], atol=1e-3)
    plain = Placed(width_in=4, width_out=8, positions="none")(seen).features
    assert torch.equal(plain[0], plain[9])


def test_the_first_token_may_have_no_place():
    connector = Placed(width_in=4, width_out=8, positions="learned", grid=(2, 1), class_token=True)
    seen = VisualTokens.on_layout(torch.ones(3, 4), Layout(counts=(3,), grids=(None,)))
    first, second, third = connector(seen).features
    torch.testing.assert_close(torch.stack([second, third]) - first, connector.positions.detach(), atol=1e-6, rtol=1e-5)


def test_unknown_grids_are_refused():
    with pytest.raises(InputError, match="5 visual tokens lie on no known grid"):
        Placed(width_in=4, width_out=8).plan(Layout(counts=(5,), grids=(None,)))
    with pytest.raises(InputError, match=r"grid of \(1, 2\) for positions learned on \(2, 1\)"):
        Placed(width_in=4, width_out=8, positions="learned", grid=(2, 1)).plan(Layout.of_grids([(1, 2)]))
    with pytest.raises(InputError, match="want the grid"):
        Placed(width_in=4, width_out=8, positions="learned")
