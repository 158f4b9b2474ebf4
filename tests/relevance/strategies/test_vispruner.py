import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.vispruner import Vispruner, distinct


@pytest.mark.parametrize(("count", "budget"), [(30, 9), (30, 10), (13, 1), (12, 11), (10, 2)])
def test_beside_the_attended_the_distinct_are_left(count, budget):
    chance = torch.Generator().manual_seed(count)
    features, attention = torch.randn(2, count, 5, generator=chance), torch.rand(2, count, generator=chance)
    found = distinct(features, attention, budget, budget // 2)
    for image, states in enumerate(features):
        ranked = sorted(range(count), key=lambda i, a=attention[image]: -float(a[i]))
        important, left = ranked[: budget // 2], ranked[budget // 2 :]
        while len(left) > budget - len(important):
            away = min(8, len(left) - (budget - len(important)))
            twins = []
            for i in left[::2]:
                near = [float(torch.cosine_similarity(states[i], states[j], dim=0)) for j in left[1::2]]
                twins.append((-max(near), i))
            left = [i for _, i in sorted(twins)[away:]] + left[1::2]
        assert found[image].tolist() == important + left and len(important + left) == budget


def test_a_share_is_one():
    with pytest.raises(InputError, match=r"a share of 1.5 important"):
        Vispruner(budget=5, important=1.5)
