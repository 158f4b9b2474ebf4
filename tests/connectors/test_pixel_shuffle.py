import pytest
import torch

from foveal.connectors.pixel_shuffle import PixelShuffle
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import fold, folded


@pytest.mark.parametrize("factor", [2, 4])
def test_folds_in_the_order_of_its_reference(known_answers, factor):
    known = known_answers("idefics3")
    given = known.inputs["pixel_shuffle"]
    layout = Layout.of_grids([(8, 8)] * len(given))
    blocks = fold(VisualTokens.on_layout(given.flatten(0, 1), layout), folded(layout, factor, name="it"), factor)
    assert torch.equal(blocks.features, known.outputs[f"pixel_shuffle.sf{factor}"].flatten(0, 1))
    assert torch.equal(blocks.mass, torch.full_like(blocks.mass, factor**2))


def test_a_grid_need_not_be_square():
    connector = PixelShuffle(width_in=1, width_out=6, factor=2)
    with torch.no_grad():
        connector.map.weight.copy_(torch.eye(6, 4))
    seen = VisualTokens.on_layout(torch.arange(8.0)[:, None], Layout.of_grids([(2, 4)]))
    made = connector(seen)
    assert made.features[:, :4].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert made.layout.grids == ((1, 2),)
    assert made.boxes.tolist() == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


def test_refuses_what_it_cannot_fold():
    connector = PixelShuffle(width_in=4, width_out=6)
    with pytest.raises(InputError, match="tokens of image 1 lie on none; use mlp"):
        connector.plan(Layout(counts=(4, 3), grids=((2, 2), None)))
    with pytest.raises(InputError, match="folds 2 x 2 cells, but the grid of image 0 is 3 x 4"):
        connector.plan(Layout.of_grids([(3, 4)]))
    with pytest.raises(InputError, match="factor of 0"):
        PixelShuffle(width_in=4, width_out=6, factor=0)
