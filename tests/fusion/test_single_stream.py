import torch

from foveal.core.types import Layout, Stream, VisualTokens
from foveal.fusion.single_stream import SingleStream


def stream(slots, **more):
    slots = torch.tensor(slots)
    hidden = torch.randn(*slots.shape, 8, generator=torch.Generator().manual_seed(0))
    return Stream(hidden=hidden, positions=torch.zeros_like(slots), slots=slots, **more)


def visual(count):
    features = torch.randn(count, 8, generator=torch.Generator().manual_seed(1))
    return VisualTokens.on_layout(features, Layout(counts=(count,), grids=(None,)))


def test_sight_is_added_at_its_slots_alone():
    fusion, given, seen = SingleStream(width=8, depth=2), stream([[-1, 1, 0, -1]]), visual(2)
    fused = fusion.at_input(given, seen)
    assert torch.equal(fused.hidden[0, [0, 3]], given.hidden[0, [0, 3]])
    own = fusion.types.weight[1] + fusion.positions.weight[0]
    torch.testing.assert_close(fused.hidden[0, [1, 2]], given.hidden[0, [1, 2]] + seen.features[[1, 0]] + own)


def test_given_types_choose_the_row_of_the_table():
    fusion, seen = SingleStream(width=8, depth=2, types=3), visual(1)
    told = [fusion.at_input(stream([[0]], types=torch.tensor([[kind]])), seen).hidden for kind in (0, 2)]
    torch.testing.assert_close((told[1] - told[0])[0, 0], fusion.types.weight[2] - fusion.types.weight[0])


def test_without_sight_the_stream_stays():
    fusion, given = SingleStream(width=8, depth=2), stream([[-1, -1]])
    assert fusion.at_input(given, None) is given and fusion.at_layer(0, given) is given
