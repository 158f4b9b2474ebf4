import pytest
import torch

from foveal.connectors.window_concat import WindowConcat
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


def seen(rows, columns, width=3):
    torch.manual_seed(0)
    return VisualTokens.on_layout(torch.randn(rows * columns, width), Layout.of_grids([(rows, columns)]))


@pytest.mark.parametrize(("grid", "window", "stride"), [((4, 6), (2, 3), None), ((5, 7), (3, 3), (2, 2))])
def test_is_a_convolution_over_the_grid(grid, window, stride):
    connector, visual = WindowConcat(width_in=3, width_out=6, window=window, stride=stride), seen(*grid)
    made = connector(visual)
    maps = visual.features.view(1, *grid, 3).permute(0, 3, 1, 2)
    kernel = connector.map.weight.view(6, 3, *window)
    wanted = torch.nn.functional.conv2d(maps, kernel, connector.map.bias, stride=stride or window)
    torch.testing.assert_close(made.features, wanted.flatten(2)[0].T)
    assert made.layout == connector.plan(visual.layout) and made.layout.grids == (tuple(wanted.shape[2:]),)
    torch.testing.assert_close(made.mass.sum(), visual.mass.sum())


def test_windows_that_overlap_say_where_they_lie_and_share_what_they_stand_for():
    made = WindowConcat(width_in=3, width_out=6, window=(1, 3), stride=(1, 1))(seen(1, 4))
    torch.testing.assert_close(made.boxes, torch.tensor([[0.0, 0.0, 0.75, 1.0], [0.25, 0.0, 1.0, 1.0]]))
    assert made.mass.tolist() == [2.0, 2.0]


def test_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="strides of 3 and 1; give strides from 1 to the window's sides"):
        WindowConcat(width_in=3, width_out=6, stride=(3, 1))
    connector = WindowConcat(width_in=3, width_out=6)
    with pytest.raises(InputError, match="tokens of image 0 lie on none"):
        connector.plan(Layout(counts=(4,), grids=(None,)))
    with pytest.raises(InputError, match="folds 2 x 2 cells, but the grid of image 0 is 4 x 5"):
        connector.plan(Layout.of_grids([(4, 5)]))
