import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.strategies.cdpruner import Cdpruner, determinant, relevance


def sample(seed=0):
    chance = torch.Generator().manual_seed(seed)
    features, words = torch.randn(2, 10, 16, generator=chance), torch.randn(2, 4, 16, generator=chance)
    return features, words, torch.tensor([[True, True, True, False], [True] * 4])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_relevance_is_the_scaled_mean_cosine(sign):
    features, words, valid = sample()
    found = relevance(features, words, valid, sign=sign)
    for image in range(2):
        means = []
        for patch in features[image]:
            heard = [torch.cosine_similarity(patch, word, dim=0) for word in words[image][valid[image]]]
            means.append(sign * float(sum(heard)) / len(heard))
        wanted = [(one - min(means) + 1e-6) / (max(means) - min(means)) for one in means]
        torch.testing.assert_close(found[image], torch.tensor(wanted).double(), atol=1e-5, rtol=1e-5)


def test_each_choice_raises_the_determinant_most():
    features, words, valid = sample()
    asked = relevance(features, words, valid)
    found = determinant(features, asked, 6)
    for image in range(2):
        units = torch.nn.functional.normalize(features[image].double(), dim=-1) * asked[image][:, None]
        kernel, kept = units @ units.T, []
        for place in found[image].tolist():
            others = [i for i in range(10) if i not in kept]
            worth = {i: float(torch.det(kernel[[*kept, i]][:, [*kept, i]])) for i in others}
            assert place == max(worth, key=worth.get)
            kept.append(place)


def test_more_than_there_are_directions_are_all_different():
    features = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0))
    assert len(set(determinant(features, torch.ones(1, 12), 11)[0].tolist())) == 11


def test_without_a_question_only_diversity_counts():
    features, words, valid = sample()
    assert (relevance(features, words, torch.zeros_like(valid)) == 1).all()


def test_words_of_another_width_ask_for_nothing():
    features, words, valid = sample()
    assert torch.equal(relevance(features, words[..., :5], valid), relevance(features, words, torch.zeros_like(valid)))


def test_a_sign_is_one():
    with pytest.raises(InputError, match="a sign of 2"):
        Cdpruner(budget=5, sign=2.0)
