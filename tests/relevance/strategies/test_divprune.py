import torch

from foveal.relevance.strategies.divprune import farthest


def test_each_is_the_farthest_from_those_before_it():
    features = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    far = 1 - torch.nn.functional.cosine_similarity(features[:, :, None], features[:, None], dim=-1)
    found = farthest(features, 6)
    for image in range(2):
        kept = []
        for place in found[image].tolist():
            others = [one for one in range(12) if one not in kept]
            if kept:
                worth = {one: min(float(far[image, one, other]) for other in kept) for one in others}
            else:
                worth = {
                    one: min(float(far[image, one, other]) for other in range(12) if other != one) for one in others
                }
            assert place == max(worth, key=worth.get)
            kept.append(place)


def test_twins_are_not_both_kept():
    features = torch.eye(4).repeat(1, 2, 1)
    assert sorted((farthest(features, 4)[0] % 4).tolist()) == [0, 1, 2, 3]
