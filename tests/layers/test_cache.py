import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Cache
from foveal.layers.cache import KVCache, join


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


def read(*lengths, seed=0):
    """A cache of one layer whose rows end together and have so many tokens, and the keys of each row."""
    store, most = KVCache(layers=1, batch=len(lengths), kv_heads=1, length=max(lengths), head_width=2), max(lengths)
    store.extend(torch.arange(most) >= most - torch.tensor(lengths)[:, None])
    keys = torch.randn(len(lengths), 1, most, 2, generator=torch.Generator().manual_seed(seed))
    store.update(0, keys, -keys)
    return store, [key[:, most - length :] for key, length in zip(keys, lengths, strict=True)]


def rows(*places):
    return torch.tensor(places)


def test_joined_rows_end_together_with_room_behind_them():
    (few, short), (many, long) = read(2), read(5, 3, seed=1)
    both = join([(few, rows(0)), (many, rows(0, 1))], room=2)
    assert both.valid[:, :5].tolist() == [[0, 0, 0, 1, 1], [1] * 5, [0, 0, 1, 1, 1]] and both.tokens.tolist() == [
        2,
        5,
        3,
    ]
    assert (both.filled, both.length, both.lengths) == (5, 7, (5,))
    keys, values = both.held(0)
    for key, value, own in zip(keys, values, [*short, *long], strict=True):
        length = own.shape[1]
        assert torch.equal(key[:, 5 - length :], own) and torch.equal(value[:, 5 - length :], -own)
        assert key.isfinite().all()  # what is hidden must be a number all the same
    one = torch.randn(3, 1, 1, 2)
    both.extend(torch.ones(3, 2, dtype=torch.bool))
    assert torch.equal(both.update(0, one, one)[0], torch.cat([keys, one], 2))
    assert few.lengths == (2,) and many.lengths == (5,) and torch.equal(many.held(0)[0][0], long[0])


def test_rows_that_leave_take_their_places_along():
    store, keys = read(5, 2, 3)
    left = join([(store, rows(2, 1))], room=1)
    assert left.valid[:, :3].tolist() == [[1, 1, 1], [0, 1, 1]] and (left.filled, left.length) == (3, 4)
    assert torch.equal(left.held(0)[0][0], keys[2]) and torch.equal(left.held(0)[0][1, :, 1:], keys[1])
    assert left.size < store.size


def test_joined_rows_keep_what_tokens_left_out_and_what_they_remember():
    one, other, third = read(3)[0], read(2)[0], read(2)[0]
    one.shift = torch.tensor([4])
    assert join([(one, rows(0)), (other, rows(0))], room=0).shift.tolist() == [4, 0]
    memory = torch.randn(1, 1, 3, 2)
    one.memory[0] = memory, -memory, torch.tensor([True, False, True])[None, None, None].expand(1, 1, 2, -1)
    third.memory[0] = memory[:, :, :1], memory[:, :, :1], torch.ones(1, 1, 2, 1, dtype=torch.bool)
    both = join([(other, rows(0)), (one, rows(0)), (third, rows(0))], room=0)
    key, value, mask = both.memory[0]
    assert mask[:, 0, 0].tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 1]] and mask.shape == (3, 1, 2, 3)
    assert torch.equal(key[1], memory[0]) and torch.equal(value[1], -memory[0]) and not key[0].any()
    assert torch.equal(key[2, :, 2:], memory[0, :, :1])
    assert join([(both, rows(0, 2))], room=0).memory[0][2][:, 0, 0].tolist() == [[0], [1]]
    assert join([(both, rows(0))], room=0).memory[0][0].shape[2] == 0


def test_a_memory_that_all_see_needs_a_mask_where_another_is_longer():
    (one, _), (other, _) = read(2), read(2)
    for store, length in ((one, 2), (other, 3)):
        store.memory[0] = torch.ones(1, 1, length, 2), torch.ones(1, 1, length, 2), None
    assert join([(one, rows(0)), (one, rows(0))], room=0).memory[0][2] is None
    both = join([(one, rows(0)), (other, rows(0))], room=0).memory[0]
    assert both[2][:, 0, 0].tolist() == [[0, 1, 1], [1, 1, 1]] and not both[0][0, 0, 0].any()
