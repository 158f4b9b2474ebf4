"""Queries that are led take of each token by its worth; the others as they like."""

import torch

from foveal.core.types import Gaze, Layout
from foveal.layers.cross_attention import CrossAttention
from foveal.layers.gazing import led


def test_led_queries_take_each_token_by_its_worth():
    torch.manual_seed(0)
    layout = Layout(counts=(3, 5), grids=(None, None))
    worth = torch.rand(8) + 0.1
    gaze = Gaze(led=(True, False), bias=worth.log())
    shown = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    shown[0, ..., 3:] = False
    mask = led(gaze, layout, shown)
    look, hidden, memory = CrossAttention(width=8, heads=2), torch.randn(2, 2, 8), torch.randn(2, 5, 8)
    keys = look.read(memory)
    free, taken = (look.weights(hidden, keys, mask=one) for one in (shown, mask))
    torch.testing.assert_close(taken[:, :, 1], free[:, :, 1])
    for row, own in enumerate((worth[:3], worth[3:])):
        expected = free[row, :, 0, : len(own)] * own
        torch.testing.assert_close(taken[row, :, 0, : len(own)], expected / expected.sum(-1, keepdim=True))
    assert not taken[0, ..., 3:].any()
    torch.testing.assert_close(look.glance(hidden[1:], memory[1:], mask=mask[1:]), look(hidden, keys, mask=mask)[1:])
    assert led(None, layout, shown) is shown


def test_what_a_token_tells_alone_is_what_it_tells_where_nothing_else_is():
    torch.manual_seed(0)
    look = CrossAttention(width=8, heads=4, kv_heads=2, memory_width=6)
    memory = torch.randn(2, 5, 6)
    alone = look(torch.randn(10, 1, 8), look.read(memory.flatten(0, 1)[:, None])).view(2, 5, 8)
    torch.testing.assert_close(look.alone(memory), alone)
