import math

import pytest
import torch

from foveal.layers.sines import grid, line


def test_a_line_goes_once_around():
    codes = line(5, 4)
    for place in range(5):
        angle = place / 4 * 2 * math.pi
        expected = [math.sin(angle), math.sin(angle / 100), math.cos(angle), math.cos(angle / 100)]
        assert codes[place].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_grid_tells_its_rows_and_then_its_columns():
    codes = grid(2, 3, 8).view(2, 3, 8)
    assert torch.equal(codes[1, 2, :4], line(2, 4)[1]) and torch.equal(codes[1, 2, 4:], line(3, 4)[2])
    assert torch.equal(grid(1, 3, 8), line(3, 8)) and torch.equal(grid(1, 1, 8), line(1, 8))
