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
