from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.fusion.prefix import Prefix


def test_slots_take_their_tokens_and_text_stays():
    hidden = torch.randn(2, 4, 3)
    slots = torch.tensor([[-1, 1, 0, -1], [2, -1, -1, -1]])
    features = torch.randn(3, 3)
    stream = Stream(hidden=hidden, positions=torch.zeros_like(slots), slots=slots)
    fused = Prefix(width=3, depth=1).at_input(
        stream, VisualTokens.on_layout(features, Layout(counts=(3,), grids=(None,)))
    )
    assert torch.equal(fused.hidden[0, 1], features[1]) and torch.equal(fused.hidden[0, 2], features[0])
    assert torch.equal(fused.hidden[1, 0], features[2])
    assert torch.equal(fused.hidden[slots < 0], hidden[slots < 0])


def test_no_images_change_nothing():
    stream = Stream(
        hidden=torch.randn(1, 2, 3),
        positions=torch.zeros(1, 2, dtype=torch.long),
        slots=torch.full((1, 2), -1),
    )
    assert Prefix(width=3, depth=1).at_input(stream, None) is stream


def test_places_tell_equal_tokens_apart_and_depend_on_the_box_alone():
    torch.manual_seed(0)
    fusion = Prefix(width=6, depth=1, places=3)
    layout = Layout.of_grids([(2, 2), (2, 2)])
    visual = VisualTokens.on_layout(torch.zeros(8, 6), layout)
    slots = torch.arange(8)[None]
    stream = Stream(hidden=torch.randn(1, 8, 6), positions=slots, slots=slots)
    placed = fusion.at_input(stream, visual).hidden[0]
    assert torch.equal(placed[:4], placed[4:])
    assert torch.cdist(placed[:4], placed[:4])[~torch.eye(4, dtype=torch.bool)].min() > 1e-3


def test_each_image_counts_its_own_tokens_and_hidden_ones_look_alike():
    torch.manual_seed(0)
    fusion = Prefix(width=4, depth=1, positions=2, mask=True)
    features = torch.randn(3, 4)
    visual = VisualTokens.on_layout(features, Layout(counts=(1, 2), grids=(None, None)))
    visual = replace(visual, masked=torch.tensor([False, False, True]))
    slots = torch.tensor([[0, 1, 2]])
    given = Stream(hidden=torch.zeros(1, 3, 4), positions=slots, slots=slots)
    fused, rows = fusion.at_input(given, visual).hidden[0], fusion.positions.weight[2:]
    torch.testing.assert_close(fused, torch.stack([features[0], features[1], fusion.mask[0, 0]]) + rows[[0, 0, 1]])
    with pytest.raises(InputError, match="2 visual tokens for 1 positions"):
        Prefix(width=4, depth=1, positions=1, mask=True).at_input(given, visual)
    with pytest.raises(InputError, match="the fusion has no token for them"):
        Prefix(width=4, depth=1).at_input(given, visual)


def test_words_and_sight_are_of_their_modalities():
    torch.manual_seed(0)
    fusion, slots = Prefix(width=4, depth=1, modalities=3), torch.tensor([[-1, 0]])
    given = Stream(hidden=torch.zeros(1, 2, 4), positions=slots, slots=slots)
    visual = VisualTokens.on_layout(torch.zeros(1, 4), Layout(counts=(1,), grids=(None,)))
    assert torch.equal(fusion.at_input(given, visual).hidden[0], fusion.modalities.weight[:2])
    second = replace(given, types=torch.tensor([[1, 2]]))
    assert torch.equal(fusion.at_input(second, visual).hidden[0], fusion.modalities.weight[[0, 2]])
    assert torch.equal(fusion.at_input(given, None).hidden[0, 0], fusion.modalities.weight[0])
