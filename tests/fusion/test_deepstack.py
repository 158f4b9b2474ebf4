from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.fusion.deepstack import Deepstack
from foveal.fusion.prefix import Prefix


def given(count: int, width: int = 3, *, levels: int = 2) -> tuple[Stream, VisualTokens]:
    slots = torch.tensor([[-1, 1, 0, -1], [2, -1, -1, -1]])
    stream = Stream(hidden=torch.randn(2, 4, width), positions=torch.zeros_like(slots), slots=slots)
    layout = Layout(counts=(count,), grids=(None,))
    further = tuple(torch.randn(count, width) for _ in range(levels))
    return stream, VisualTokens.on_layout(torch.randn(count, width), layout, further)


def test_each_level_is_added_after_its_layer_where_its_token_stands():
    stream, visual = given(3)
    fusion = Deepstack(width=3, depth=4, after=(2, 0))
    entered = fusion.at_input(stream, visual)
    assert torch.equal(entered.hidden, Prefix(width=3, depth=4).at_input(stream, visual).hidden)
    seen = stream.slots >= 0
    for index in range(5):
        added = fusion.at_layer(index, entered).hidden - entered.hidden
        level = {3: 0, 1: 1}.get(index)
        if level is None:
            assert not added.any()
            continue
        torch.testing.assert_close(added[seen], visual.levels[level][stream.slots[seen]])
        assert not added[~seen].any()


def test_text_alone_and_later_tokens_pass():
    stream, _ = given(3)
    fusion = Deepstack(width=3, depth=2, after=(0, 1))
    assert fusion.at_input(stream, None) is stream
    assert fusion.at_layer(1, stream) is stream


def test_places_are_added_at_the_input_alone():
    stream, visual = given(3)
    visual = replace(visual, boxes=torch.rand(3, 4))
    fusion = Deepstack(width=3, depth=2, after=(0, 1), places=2)
    entered = fusion.at_input(stream, visual)
    assert not torch.equal(entered.hidden, Deepstack(width=3, depth=2, after=(0, 1)).at_input(stream, visual).hidden)
    assert torch.equal(entered.levels[0], visual.levels[0])


@pytest.mark.parametrize("after", [(), (1, 1), (0, 4), (-1,)])
def test_layers_that_are_not_there_are_refused(after):
    with pytest.raises(InputError, match="give each level another layer, 0 to 3"):
        Deepstack(width=3, depth=4, after=after)


def test_another_number_of_levels_is_refused():
    stream, visual = given(3, levels=1)
    with pytest.raises(InputError, match="1 levels for a deepstack of 2"):
        Deepstack(width=3, depth=2, after=(0, 1)).at_input(stream, visual)
