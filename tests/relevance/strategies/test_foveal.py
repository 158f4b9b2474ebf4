"""Our own strategy, where its contract does not reach."""

import torch

from foveal.core.types import Query
from foveal.relevance.strategies.foveal import Foveal


def test_tokens_in_another_width_than_words_couple_to_none():
    torch.manual_seed(0)
    query = Query(features=torch.randn(1, 3, 6), valid=torch.ones(1, 3, dtype=torch.bool))
    maps = Foveal().knowing(torch.randn(2, 12, 4), (3, 4), query, torch.zeros(2, dtype=torch.long))
    assert not maps[:, 2].any() and maps[:, :2].any()
    assert Foveal().knowing(torch.randn(2, 12, 6), (3, 4), query, torch.zeros(2, dtype=torch.long))[:, 2].any()
