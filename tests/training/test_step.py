"""Gradients of one step: divided once, then clipped."""

import pytest
import torch
from torch import nn

from foveal.training.step import rescale


@pytest.mark.parametrize(("clip", "norm"), [(100.0, 2.5), (1.0, 1.0)])
def test_gradients_are_divided_by_the_count_and_clipped_to_the_norm(clip, norm):
    one, other, idle = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one.grad, other.grad = torch.tensor([6.0]), torch.tensor([8.0])
    before = rescale([one, other, idle], divisor=torch.tensor(4.0), clip=clip)
    assert before.item() == pytest.approx(2.5)
    assert torch.cat([one.grad, other.grad]).norm().item() == pytest.approx(norm, rel=1e-5)
    assert (one.grad / other.grad).item() == pytest.approx(0.75)
    assert idle.grad is None
