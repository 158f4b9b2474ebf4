from functools import partial

import pytest
import torch

from foveal.layers.attention import Attention
from foveal.layers.initial import in_order, liken, scale_residual, small_normal
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


def test_like_attends_to_like():
    torch.manual_seed(0)
    attention = Attention(width=32, heads=4, kv_heads=2, head_width=8)
    liken(attention, deviation=0.1)
    query, key = attention.query.weight.view(4, 8, 32), attention.key.weight.view(2, 8, 32)
    assert torch.equal(query[0], key[0]) and torch.equal(query[2], key[1])
    assert not torch.equal(query[1], key[0])
    assert 0.08 < query.std() < 0.12


@pytest.mark.parametrize("count", [1, 2, 64])
def test_rows_in_order_begin_like_their_neighbours(count):
    torch.manual_seed(0)
    table = torch.zeros(count, 33)
    in_order(table)
    assert table.isfinite().all() and table.std().item() == pytest.approx(0.02, rel=0.2)
    if count == 64:
        alike = torch.nn.functional.cosine_similarity(table[:-1], table[1:])
        far = torch.nn.functional.cosine_similarity(table[:32], table[32:])
        assert alike.mean() > 0.6 > 0.3 > far.abs().mean()
