import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.visionzip import Visionzip, zipped


@pytest.mark.parametrize(("budget", "contextual"), [(8, 3), (5, 1), (13, 2), (6, 0), (3, 3)])
def test_dominant_tokens_and_what_is_gathered(budget, contextual):
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(2, 14, 5, generator=chance)
    attention, keys = torch.rand(2, 14, generator=chance), torch.randn(2, 14, 4, generator=chance)
    made = zipped(attention, keys, budget, contextual)
    for image in range(2):
        ranked = sorted(range(14), key=lambda i, a=attention[image]: -float(a[i]))
        first, others = sorted(ranked[: budget - contextual]), sorted(ranked[budget - contextual :])
        tokens = [features[image, i] for i in first]
        held = [[i] for i in first]
        if contextual:
            step = max(1, len(others) // contextual)
            middles = others[::step][:contextual]
            near = {one: [] for one in middles}
            for i in others:
                if i not in middles:
                    alike = [float(torch.cosine_similarity(keys[image, i], keys[image, m], dim=0)) for m in middles]
                    near[middles[alike.index(max(alike))]].append(i)
            for middle, some in near.items():
                gathered = sum((features[image, i] for i in some), torch.zeros(5)) / max(1, len(some))
                tokens.append(features[image, middle] + gathered)
                held.append(sorted([middle, *some]))
        torch.testing.assert_close(made.parts[image] @ features[image], torch.stack(tokens))
        assert [(made.token[image] == n).nonzero()[:, 0].tolist() for n in range(budget)] == held


@pytest.mark.parametrize(("budget", "dominant"), [(64, 54), (128, 108), (192, 162)])
def test_the_shares_of_the_paper(budget, dominant):
    assert budget - int(budget * Visionzip(budget=budget).contextual) == dominant


def test_a_share_is_one():
    with pytest.raises(InputError, match="a share of 2 contextual"):
        Visionzip(budget=5, contextual=2.0)
