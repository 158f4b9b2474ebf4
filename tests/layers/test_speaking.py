"""A layer that speaks at some places alone does so when it is called; one of another package by its `only`."""

import torch
from torch import nn

from foveal.core.types import Stream
from foveal.layers.speaking import Speaking, alone
from foveal.training.parts import recomputed


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.made = nn.Linear(2, 2), 0

    def forward(self, stream):
        return stream.with_hidden(self.map(stream.hidden))

    def only(self, stream, at):
        self.made += 1
        kept = stream.only(at)
        return kept.with_hidden(self.map(kept.hidden))


class Called(Speaking):
    def __init__(self):
        super().__init__()
        self.map, self.made = nn.Linear(2, 2), 0

    everywhere, only = Plain.forward, Plain.only


def test_it_is_said_by_a_call_where_the_layer_is_one_for_that():
    stream = Stream(hidden=torch.randn(2, 3, 2), positions=torch.arange(3).expand(2, 3), slots=torch.full((2, 3), -1))
    at = torch.tensor([[2], [0]])
    for layer, calls in ((Plain(), 0), (Called(), 1)):
        seen = []
        layer.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        wanted = layer.map(stream.hidden)[[0, 1], [2, 0]][:, None]
        torch.testing.assert_close(alone(layer, stream, at).hidden, wanted)
        assert len(seen) == calls
        assert layer(stream).hidden.shape == (2, 3, 2)
        layer.made = 0
        with recomputed([layer], wanted=True):
            alone(layer, stream, at).hidden.sum().backward()
        assert layer.made == 2, "once forward, once for the backward pass"
        assert {"forward", "only"}.isdisjoint(vars(layer))
