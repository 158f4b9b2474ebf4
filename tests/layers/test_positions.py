import torch

from foveal.layers.positions import Positions


def test_position_0_is_the_third_row():
    table = Positions(4, 3)
    assert table.weight.shape == (6, 3) and table.count == 4
    assert torch.equal(table(torch.tensor([0, 3])), table.weight[[2, 5]])
