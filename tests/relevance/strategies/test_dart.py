import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.dart import Dart, unlike


@pytest.mark.parametrize(("budget", "pivots"), [(9, 4), (8, 4), (3, 4), (7, 1)])
def test_each_pivot_takes_what_is_least_like_it(budget, pivots):
    features = torch.randn(2, 14, 5, generator=torch.Generator().manual_seed(0))
    found = unlike(features, budget, pivots)
    for image, states in enumerate(features):
        size = [float(state.abs().sum()) for state in states]
        kept = sorted(range(14), key=lambda i: -size[i])[: min(pivots, budget)]
        left = budget - len(kept)
        for number, pivot in enumerate(list(kept)):
            share = -(-left // (min(pivots, budget) - number))
            alike = {i: float(torch.cosine_similarity(states[pivot], states[i], dim=0)) for i in range(14)}
            kept += sorted((i for i in range(14) if i not in kept), key=alike.__getitem__)[:share]
            left -= share
        assert found[image].tolist() == kept and len(set(kept)) == budget


def test_no_pivot_is_refused():
    with pytest.raises(InputError, match="0 pivots"):
        Dart(budget=5, pivots=0)
