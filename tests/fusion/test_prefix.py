from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Stream, VisualTokens
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


def test_words_that_are_marks_take_the_connectors_vectors():
    """Only in a batch with images; without any they are words like others."""
    fusion, ids = Prefix(width=3, depth=1, marks=(8, 7)), torch.tensor([[7, 1, 8, 8], [7, 2, 3, 4]])
    valid = torch.ones_like(ids, dtype=torch.bool)
    slots = torch.tensor([[-1, 0, -1, -1], [-1, -1, -1, -1]])
    batch = Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots)
    assert fusion.at_words(batch, None) is batch
    marks = torch.randn(2, 3)
    visual = replace(VisualTokens.on_layout(torch.randn(1, 3), Layout.of_grids([(1, 1)])), marks=marks)
    worded = fusion.at_words(batch, visual)
    assert worded.image_slot.tolist() == [[-3, 0, -2, -2], [-3, -1, -1, -1]]
    hidden = torch.randn(2, 4, 3)
    fused = fusion.at_input(Stream(hidden=hidden, positions=slots, slots=worded.image_slot), visual).hidden
    assert torch.equal(fused[0], torch.stack([marks[1], visual.features[0], marks[0], marks[0]]))
    assert torch.equal(fused[1], torch.cat([marks[1:], hidden[1, 1:]]))
    with pytest.raises(InputError, match=r"2 words in fusion.marks and 0 marks of the connector"):
        fusion.at_words(batch, replace(visual, marks=None))
