import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.scope import Scope, covering


def test_each_choice_gains_most_coverage_times_worth():
    chance = torch.Generator().manual_seed(0)
    features, worth = torch.randn(2, 10, 5, generator=chance), torch.rand(2, 10, generator=chance)
    found = covering(features, worth, 6)
    for image in range(2):
        alike = torch.cosine_similarity(features[image][:, None], features[image][None], dim=-1).tolist()
        kept, covered = [], [0.0] * 10
        for place in found[image].tolist():
            gains = {
                j: float(worth[image, j]) * sum(max(0.0, alike[i][j] - covered[i]) for i in range(10))
                for j in range(10)
                if j not in kept
            }
            assert place == max(gains, key=gains.get)
            kept.append(place)
            covered = [max(covered[i], alike[i][place]) for i in range(10)]


def test_coverage_alone_needs_nothing():
    assert Scope(budget=5).needs == ("attention",) and Scope(budget=5, alpha=0.0).needs == ()
    with pytest.raises(InputError, match="an alpha of -1"):
        Scope(budget=5, alpha=-1.0)
