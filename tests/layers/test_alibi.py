"""ALiBi against its definition."""

import pytest
import torch

from foveal.layers.alibi import sloped, slopes


def test_slopes_are_a_geometric_row_and_of_six_heads_the_wider_steps_come_first():
    assert slopes(4, 8.0).tolist() == [2**-2, 2**-4, 2**-6, 2**-8]
    assert slopes(6, 8.0).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


def test_what_is_hidden_stays_hidden_and_the_rest_falls_with_the_distance():
    mask = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    added = sloped(mask, torch.tensor([[0, 1, 4]]), torch.tensor([0.5, 0.25]))
    assert added[0, 0].tolist() == [[0, -torch.inf, -torch.inf], [-0.5, 0, -torch.inf], [-2, -1.5, 0]]
    assert torch.equal(added[0, 1], added[0, 0] / 2)
    last = sloped(mask[:, :, 2:], torch.tensor([[2]]), torch.tensor([1.0]))
    assert last.tolist() == [[[[-2, -1, 0]]]]
