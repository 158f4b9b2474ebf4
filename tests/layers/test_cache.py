import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Cache
from foveal.layers.cache import KVCache


def cache(length=4):
    return KVCache(layers=2, batch=1, kv_heads=1, length=length, head_width=2)


def test_gives_back_all_that_was_kept_and_nothing_else():
    store = cache()
    assert isinstance(store, Cache)
    first, second = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 1, 2)
    assert store.extend(torch.tensor([[False, True]])).tolist() == [[False, True]]
    store.update(0, first, first)
    store.update(1, -first, -first)
    assert store.extend(torch.tensor([[True]])).tolist() == [[False, True, True]]
    keys, values = store.update(0, second, 2 * second)
    assert torch.equal(keys, torch.cat([first, second], 2))
    assert torch.equal(values, torch.cat([first, 2 * second], 2))
    assert torch.equal(store.update(1, second, second)[0], torch.cat([-first, second], 2))


def test_refuses_what_does_not_fit():
    store = cache()
    store.extend(torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="2 tokens after 3 do not fit a cache of 4"):
        store.extend(torch.ones(1, 2, dtype=torch.bool))


def test_a_layer_makes_room_when_it_first_speaks_for_what_it_will_hold():
    store = cache(6)
    assert store.size == 0
    store.extend(torch.ones(1, 3, dtype=torch.bool))
    store.update(0, torch.randn(1, 1, 3, 2), torch.randn(1, 1, 3, 2))
    assert store.thin(1, torch.tensor([[0, 2]]), None, length=3) is None
    kept = torch.randn(1, 1, 2, 2)
    store.update(1, kept, kept)
    assert store.lengths == (3, 2) and store.size == (6 + 5) * 2 * 2 * 4
    assert store.where(0) is None and store.where(1).tolist() == [[0, 2]]
    store.extend(torch.ones(1, 3, dtype=torch.bool))
    more = torch.randn(1, 1, 3, 2)
    assert store.thin(1, None, None, length=3) is None
    assert torch.equal(store.update(1, more, more)[0], torch.cat([kept, more], 2))
    assert store.where(1).tolist() == [[0, 2, 3, 4, 5]]


def test_a_fork_holds_the_same_in_every_layer():
    store = KVCache(layers=2, batch=2, kv_heads=1, length=4, head_width=2)
    store.extend(torch.ones(2, 3, dtype=torch.bool))
    parts = [torch.randn(2, 1, count, 2) for count in (3, 2)]
    store.update(0, parts[0], -parts[0])
    real = torch.tensor([[True, True], [False, True]])
    assert torch.equal(store.thin(1, torch.tensor([[0, 2], [1, 2]]), real, length=3), real)
    store.update(1, parts[1], -parts[1])
    rows = torch.tensor([1, 0, 1])
    forked = store.fork(rows, 5)
    assert forked.lengths == (3, 2) and forked.size == 3 * (5 + 4) * 2 * 2 * 4
    forked.extend(torch.ones(3, 1, dtype=torch.bool))
    seen = forked.thin(1, None, None, length=1)
    assert seen.tolist() == [[False, True, True], [True, True, True], [False, True, True]]
    assert forked.where(1).tolist() == [[1, 2, 3], [0, 2, 3], [1, 2, 3]]
    one = torch.randn(3, 1, 1, 2)
    for layer in range(2):
        keys, values = forked.update(layer, one, one)
        assert torch.equal(keys, torch.cat([parts[layer][rows], one], 2))
        assert torch.equal(values, torch.cat([-parts[layer][rows], one], 2))
    assert store.lengths == (3, 2)
