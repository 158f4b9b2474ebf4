from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.fusion.memory import Memory


def stream(rows, owner):
    places = torch.zeros(rows, 1, dtype=torch.long)
    return Stream(
        hidden=torch.zeros(rows, 1, 4), positions=places, slots=places - 1, owner=torch.tensor(owner, dtype=torch.long)
    )


def tokens(*counts):
    layout = Layout(counts=counts, grids=(None,) * len(counts))
    return VisualTokens.on_layout(torch.randn(layout.total, 4), layout)


def test_one_image_a_row_is_laid_out_without_an_index():
    seen = tokens(3, 3)
    out = Memory(width=4, depth=1).at_input(stream(2, [0, 1]), seen)
    assert torch.equal(out.memory, seen.features.view(2, 3, 4)) and out.memory_mask is None


def test_rows_hold_their_own_images_and_nothing_else():
    seen = tokens(2, 1, 3)
    out = Memory(width=4, depth=1).at_input(stream(3, [2, 0, 2]), seen)
    assert out.memory_mask[:, 0, 0].sum(1).tolist() == [1, 0, 5]
    assert torch.equal(out.memory[2], seen.features[[0, 1, 3, 4, 5]])
    assert torch.equal(out.memory[0, :1], seen.features[2:3])


def test_positions_restart_with_each_image():
    fusion, seen = Memory(width=4, depth=1, positions=3), tokens(3, 2)
    out = fusion.at_input(stream(1, [0, 0]), seen)
    assert torch.equal(out.memory[0], seen.features + fusion.positions.weight[[0, 1, 2, 0, 1]])
    with pytest.raises(InputError, match="4 visual tokens for a memory of 3"):
        fusion.at_input(stream(1, [0]), tokens(4))


def test_places_tell_tokens_apart_by_their_boxes():
    fusion = Memory(width=4, depth=1, places=2)
    layout = Layout.of_grids([(2, 2)])
    out = fusion.at_input(stream(1, [0]), VisualTokens.on_layout(torch.zeros(4, 4), layout))
    assert len({tuple(row) for row in out.memory[0].tolist()}) == 4


def test_nothing_seen_leaves_the_stream():
    before = stream(1, [])
    assert Memory(width=4, depth=1).at_input(before, None) is before


class Laid(torch.nn.Module):
    """The memory of two rows and two images, from plain tensors."""

    def __init__(self):
        super().__init__()
        self.fusion, self.stream, self.seen = Memory(width=4, depth=1), stream(2, [0, 1]), tokens(2, 2)

    def forward(self, owner, features):
        seen = replace(self.seen, features=features)
        return self.fusion.at_input(replace(self.stream, owner=owner), seen).memory


@pytest.mark.parametrize("owner", [[0, 1], [1, 0]])
def test_exported_rows_hold_their_own_images_whatever_their_order(owner):
    features, laid = torch.randn(4, 4), Laid()
    exported = torch.export.export(laid, (torch.tensor([0, 1]), features)).module()
    found = exported(torch.tensor(owner), features)
    assert torch.equal(found, laid(torch.tensor(owner), features))
    assert torch.equal(found[0], features.view(2, 2, 4)[owner.index(0)])
    with pytest.raises(RuntimeError, match="rows with several images and with none; compiled, give each row one"):
        exported(torch.tensor([0, 0]), features)
