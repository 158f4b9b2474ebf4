import torch
import torch.nn.functional as F

from foveal.relevance.strategies.tome import in_order, merged


def by_hand(features, mass, budget):
    """Rounds of bipartite soft matching, in lists: (state, mass, patches) of each token."""
    tokens = [(features[i], float(mass[i]), [i]) for i in range(len(features))]
    while len(tokens) > budget:
        first, second = tokens[::2], list(tokens[1::2])
        best = []
        for i, (state, _, _) in enumerate(first):
            alike = [float(F.cosine_similarity(state, other, dim=0)) for other, _, _ in second]
            best.append((-max(alike), i, alike.index(max(alike))))
        ranked = sorted(best)
        count = min(len(tokens) - budget, len(tokens) // 2)
        sums = [(state * size, size, list(held)) for state, size, held in second]
        for _, i, to in ranked[:count]:
            state, size, held = first[i]
            whole, total, together = sums[to]
            sums[to] = (whole + state * size, total + size, together + held)
        tokens = [first[i] for _, i, _ in ranked[count:]]
        tokens += [(whole / total, total, held) for whole, total, held in sums]
    return tokens


def test_as_by_hand():
    chance = torch.Generator().manual_seed(0)
    features, mass = torch.randn(2, 13, 5, generator=chance), torch.randint(1, 4, (2, 13), generator=chance).float()
    for budget in (1, 2, 5, 7, 12):
        token = merged(features, mass, budget)
        for image in range(2):
            wanted = by_hand(features[image], mass[image], budget)
            found = [set((token[image] == number).nonzero()[:, 0].tolist()) for number in range(budget)]
            assert found == [set(held) for _, _, held in wanted]


def test_tokens_stand_where_their_first_patches_do():
    assert in_order(torch.tensor([[2, 0, 2, 1, 0]]), 3).tolist() == [[0, 1, 0, 2, 1]]
