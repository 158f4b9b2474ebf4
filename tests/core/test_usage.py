import pytest
import torch

from foveal.core.usage import perplexity


def test_it_counts_equal_codes():
    assert perplexity(torch.tensor([2, 2, 0, 2])) == pytest.approx(3)
    assert perplexity(torch.tensor([5.0, 0.0])) == 1
