"""Keys against pruning done by hand: the weakest subtree is cut again and again (CART)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.relevance.slopes import by_key, split_gains, split_keys
from foveal.relevance.tree import tree_of


def by_hand(tree, features, weight):
    """The gain of each split, and at which price each is pruned away."""
    gains = {}
    for place in range(len(tree.splits)):
        if tree.splits[place]:
            mine, left, right = (
                _variance(tree, features, weight, one) for one in (place, 2 * place + 1, 2 * place + 2)
            )
            gains[place] = mine - left - right
    keys, alive = {}, set(gains)

    def under(place):
        return [place, *under(2 * place + 1), *under(2 * place + 2)] if place in alive else []

    price = 0.0
    while alive:
        means = {place: sum(gains[one] for one in under(place)) / len(under(place)) for place in alive}
        weakest = min(means, key=lambda place: (means[place], place))
        price = max(price, means[weakest])
        for one in under(weakest):
            keys[one] = price
        alive -= set(under(weakest))
    return gains, keys


def _variance(tree, features, weight, place):
    row0, col0, row1, col1 = tree.rectangles[place].tolist()
    columns = int(tree.rectangles[0, 3])
    inside = [row * columns + column for row in range(row0, row1) for column in range(col0, col1)]
    some, of = features[inside].double(), weight[inside].double()
    if of.sum() == 0:
        return 0.0
    mean = (some * of[:, None]).sum(0) / of.sum()
    return float((of * (some - mean).square().sum(1)).sum())


@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_keys_are_the_prices_at_which_splits_are_pruned(grid, seed):
    chance = torch.Generator().manual_seed(seed)
    patches = grid[0] * grid[1]
    features = torch.randn(patches, 3, generator=chance)
    weight = torch.rand(patches, generator=chance) * (torch.rand(patches, generator=chance) > 0.2)
    tree = tree_of(grid)
    gains, keys = by_hand(tree, features, weight)
    found = split_keys(tree, features[None], weight[None])[0]
    measured = split_gains(tree, features[None], weight[None])[0]
    for place, key in keys.items():
        assert measured[place] == pytest.approx(gains[place], abs=1e-5)
        assert found[place] == pytest.approx(key, abs=1e-5)
    assert (found[~tree.splits] == -torch.inf).all()


def test_no_split_comes_before_its_parent_and_equal_ones_come_from_coarse_to_fine():
    tree = tree_of((8, 8))
    order = by_key(tree, split_keys(tree, torch.zeros(1, 64, 2), torch.ones(1, 64)))[0].tolist()
    assert order == sorted(order)
    chance = torch.Generator().manual_seed(0)
    order = by_key(tree, split_keys(tree, torch.randn(1, 64, 2, generator=chance), torch.ones(1, 64)))[0].tolist()
    assert all(order.index((place - 1) // 2) < order.index(place) for place in order if place)


def test_what_is_relevant_is_split_first():
    weight = torch.full((1, 64), 1e-3)
    weight[0, 63] = weight[0, 62] = 1.0
    features = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(0))
    tree = tree_of((8, 8))
    first = by_key(tree, split_keys(tree, features, weight))[0, :6]
    boxes = tree.rectangles[first]
    assert ((boxes[:, 2] == 8) & (boxes[:, 3] >= 7)).all()
