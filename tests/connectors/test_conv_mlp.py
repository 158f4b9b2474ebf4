import pytest
import torch

from foveal.connectors.conv_mlp import ConvMlp
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


def test_refuses_tokens_without_a_grid():
    connector = ConvMlp(width_in=8, width_out=8, width=8)
    with pytest.raises(InputError, match="image 0 lie on none"):
        connector.plan(Layout(counts=(3,), grids=(None,)))


def test_refuses_an_even_kernel():
    with pytest.raises(InputError, match="kernel of 4"):
        ConvMlp(width_in=8, width_out=8, kernel=4)


def test_sees_exactly_the_kernels_neighbourhood():
    torch.manual_seed(0)
    connector = ConvMlp(width_in=8, width_out=8, width=8, kernel=3)
    layout = Layout.of_grids([(5, 5)])
    features = torch.randn(25, 8, requires_grad=True)
    connector(VisualTokens.on_layout(features, layout)).features[12, 0].backward()
    seen = features.grad.abs().sum(-1).view(5, 5) > 0
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = True
    assert torch.equal(seen, expected)


def test_a_factor_folds_what_has_looked_around():
    torch.manual_seed(0)
    connector = ConvMlp(width_in=8, width_out=6, width=8, kernel=1, factor=2)
    layout = Layout.of_grids([(8, 8)])
    features = torch.randn(64, 8, requires_grad=True)
    made = connector(VisualTokens.on_layout(features, layout))
    assert made.layout == connector.plan(layout) == Layout.of_grids([(4, 4)])
    assert made.mass.tolist() == [4.0] * 16
    made.features[5, 0].backward()
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:5, 1:5] = True  # its own four cells and the next ones around them
    assert torch.equal(features.grad.abs().sum(-1).view(8, 8) > 0, expected)
    with pytest.raises(InputError, match="2 x 2 cells, but the grid of image 0 is 3 x 4"):
        connector.plan(Layout.of_grids([(3, 4)]))
