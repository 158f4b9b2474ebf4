import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.prumerge import Prumerge, merged


@pytest.mark.parametrize(("budget", "near"), [(5, 3), (2, 32), (9, 32), (1, 2)])
def test_centres_with_what_is_like_them_and_the_sum_of_the_rest(budget, near):
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(2, 10, 5, generator=chance)
    attention, keys = torch.rand(2, 10, generator=chance).softmax(-1), torch.randn(2, 10, 4, generator=chance)
    made = merged(attention, keys, budget, near)
    for image in range(2):
        share = attention[image].tolist()
        first = sorted(sorted(range(10), key=lambda i: -share[i])[: max(1, budget - 1)])
        tokens = []
        for centre in first:
            others = [i for i in range(10) if i != centre]
            alike = {i: float(torch.cosine_similarity(keys[image, centre], keys[image, i], dim=0)) for i in others}
            friends = sorted(others, key=lambda i: -alike[i])[:near]
            tokens.append(features[image, centre] + sum(share[i] * features[image, i] for i in friends))
        if budget > 1:
            tokens.append(sum(share[i] * features[image, i] for i in range(10) if i not in first))
        torch.testing.assert_close(made.parts[image] @ features[image], torch.stack(tokens))
        assert made.token[image, first].tolist() == list(range(len(first)))


def test_some_are_near():
    with pytest.raises(InputError, match="0 patches near each"):
        Prumerge(budget=5, near=0)
