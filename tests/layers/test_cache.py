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
