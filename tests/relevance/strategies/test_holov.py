import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.holov import Holov, holistic, shared_out, stretches


def crop_by_hand(states, attention, alpha):
    count = len(states)
    scaled = [1e3 * one for one in attention]
    varies = []
    for i in range(count):
        alike = [0.0 if i == j else float(torch.cosine_similarity(states[i], states[j], dim=0)) for j in range(count)]
        mean = sum(alike) / (count - 1)
        varies.append(sum((one - mean) ** 2 for one in alike) / (count - 1))
    measure = (sum(scaled) / count) / (sum(varies) / count + 1e-6)
    return sum(a + alpha * measure * v for a, v in zip(scaled, varies, strict=True)) / count


@pytest.mark.parametrize("budget", [6, 11, 20, 33])
def test_crops_have_their_shares(budget):
    chance = torch.Generator().manual_seed(0)
    features, attention = torch.randn(2, 34, 5, generator=chance), torch.rand(2, 34, generator=chance).softmax(-1)
    found = holistic(features, attention, budget, 5, 0.09)
    for image in range(2):
        share = attention[image].tolist()
        bounds = [0, 7, 14, 21, 28, 34]
        spans = [list(range(*bounds[n : n + 2])) for n in range(5)]
        worth = [crop_by_hand(features[image, span], [share[i] for i in span], 0.09) for span in spans]
        parts = [one / (sum(worth) + 1e-6) for one in worth]
        quota = [int(one * budget) for one in parts]
        for n in sorted(range(5), key=lambda n: -parts[n])[: budget - sum(quota)]:
            quota[n] += 1
        kept = []
        for span, most in zip(spans, quota, strict=True):
            kept += sorted(span, key=lambda i: -share[i])[:most]
        left = sorted((i for i in range(34) if i not in kept), key=lambda i: -share[i])
        kept += left[: budget - len(kept)]  # where a crop is smaller than its share
        assert sorted(found[image].tolist()) == sorted(kept) and len(kept) == budget


def test_stretches_and_shares():
    assert stretches(10, 4) == [3, 3, 2, 2] and stretches(3, 16) == [1, 1, 1]
    assert shared_out(torch.tensor([[1.0, 2.0, 1.0]]), 6).tolist() == [[2, 3, 1]]


def test_a_crop_of_one_patch_counts_by_attention():
    attention = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    assert sorted(holistic(torch.randn(1, 4, 3), attention, 2, 16, 0.09)[0].tolist()) == [1, 2]


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="0 crops"):
        Holov(budget=5, crops=0)
