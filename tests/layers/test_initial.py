from functools import partial

import pytest
import torch

from foveal.layers.initial import scale_residual, small_normal
from foveal.layers.mlp import FeedForward


def test_deviation_and_zero_bias():
    torch.manual_seed(0)
    block = FeedForward(width=64, inner=256, activation="gelu")
    block.apply(partial(small_normal, deviation=0.1))
    assert block.up.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert not block.up.bias.any()


def test_only_maps_into_the_residual_stream_shrink():
    block = FeedForward(width=4, inner=8, activation="gelu")
    up, down = block.up.weight.clone(), block.down.weight.clone()
    scale_residual(block, depth=8)
    assert torch.equal(block.up.weight, up)
    torch.testing.assert_close(block.down.weight, down / 4)
