import pytest
import torch

from foveal.connectors.average_pool import AveragePool
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


def test_is_the_mlp_of_the_mean_of_each_block():
    torch.manual_seed(0)
    connector = AveragePool(width_in=4, width_out=6, factor=2)
    seen = torch.randn(24, 4)
    made = connector(VisualTokens.on_layout(seen, Layout.of_grids([(4, 6)])))
    blocks = torch.nn.functional.avg_pool2d(seen.view(1, 4, 6, 4).permute(0, 3, 1, 2), 2)
    wanted = connector.map(VisualTokens.on_layout(blocks.flatten(2)[0].T, Layout.of_grids([(2, 3)])))
    torch.testing.assert_close(made.features, wanted.features)
    assert made.layout == wanted.layout and torch.equal(made.boxes, wanted.boxes)
    assert made.mass.tolist() == [4.0] * 6


def test_refuses_tokens_without_a_grid():
    with pytest.raises(InputError, match="average_pool folds a grid, but the tokens of image 0 lie on none"):
        AveragePool(width_in=4, width_out=6).plan(Layout(counts=(4,), grids=(None,)))
