"""Tokens that leave: what is left, who sees whom, and what a cache holds of it. Whole models: tests/fusion."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.types import Fan, Layout, Stream, VisualTokens
from foveal.layers.cache import KVCache
from foveal.layers.masks import attention_mask
from foveal.layers.thinning import askers, best, ends, groups, placed, ranks, spread, stretches, thin


def stream_of(slots, **parts):
    slots = torch.tensor(slots)
    hidden = torch.arange(slots.numel() * 2.0).view(*slots.shape, 2) + 1
    places = torch.arange(slots.shape[1]).expand_as(slots)
    valid = torch.ones_like(slots, dtype=torch.bool)
    return Stream(**{"hidden": hidden, "positions": places, "slots": slots, "valid": valid, "prompt": valid, **parts})


def told(rows):
    return torch.tensor(rows, dtype=torch.bool)


def images(*counts):
    layout = Layout(counts=counts, grids=(None,) * len(counts))
    return VisualTokens.on_layout(torch.zeros(layout.total, 2), layout)


def test_what_is_left_keeps_its_positions_and_order():
    tables = torch.arange(8.0).view(1, 1, 8, 1), -torch.arange(8.0).view(1, 1, 8, 1)
    stream = stream_of([[-1, 0, 1, 2, -1, 3, 4, -1]], rotary=tables)
    left = thin(stream, told([[1, 0, 1, 1, 1, 0, 1, 1]]), layer=1)
    assert left.positions.tolist() == left.places.tolist() == [[0, 2, 3, 4, 6, 7]]
    assert left.slots.tolist() == [[-1, 1, 2, -1, 4, -1]] and left.mask is None
    assert torch.equal(left.hidden, stream.hidden[:, [0, 2, 3, 4, 6, 7]])
    assert [table.flatten().tolist() for table in left.rotary] == [[0, 2, 3, 4, 6, 7], [0, -2, -3, -4, -6, -7]]
    less = thin(left, told([[1, 1, 0, 1, 0, 1]]), layer=2)
    assert less.places.tolist() == [[0, 2, 4, 7]]
    assert placed(less, torch.tensor([[7, 4]])).tolist() == [[3, 2]]
    whole = spread(less, 8)
    assert torch.equal(whole[:, [0, 2, 4, 7]], stream.hidden[:, [0, 2, 4, 7]]) and not whole[:, [1, 3, 5, 6]].any()


def test_where_nothing_leaves_the_stream_stays_itself():
    stream = stream_of([[-1, 0]])
    assert thin(stream, told([[1, 1]]), layer=0) is stream and thin(stream, None, layer=0) is stream
    assert spread(stream, 2) is stream.hidden and placed(stream, stream.slots) is stream.slots


def test_rows_that_keep_fewer_are_filled_with_what_nobody_sees():
    stream = stream_of([[0, 1, 2, -1, -1], [0, 1, 2, 3, -1]])
    left = thin(stream, told([[1, 0, 1, 1, 1], [0, 0, 0, 1, 1]]), layer=0)
    assert left.places[0].tolist() == [0, 2, 3, 4] and left.places[1].tolist() == [0, 1, 3, 4]
    assert left.valid.tolist() == [[True] * 4, [False, False, True, True]]
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.equal(left.mask[0, 0], causal)
    assert left.mask[1, 0].tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]  # fillings see themselves


def test_padding_leaves_too_but_not_the_last_place():
    stream = stream_of([[0, 1, -1, -1, -1], [0, -1, -1, -1, -1]])
    valid = told([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    stream = replace(stream, valid=valid, mask=attention_mask(valid, queries=5))
    left = thin(stream, told([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]), layer=0)
    assert left.places.tolist() == [[1, 2, 3, 4], [0, 1, 2, 4]]
    assert left.valid.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert left.mask[:, 0, 1].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


@given(st.integers(0, 10_000))
def test_who_sees_whom_stays(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, length = 3, 9
    valid, keep = (torch.rand(rows, length, generator=generator) > 0.3 for _ in range(2))
    segment, branch = (torch.randint(0, 2, (rows, length), generator=generator) for _ in range(2))
    mask = attention_mask(valid, queries=length, segment=segment, branch=branch, window=5)
    slots = torch.zeros(rows, length, dtype=torch.long).tolist()
    left = thin(stream_of(slots, valid=valid, mask=mask), keep, layer=0)
    for row in range(rows):
        real = left.valid[row]
        places = left.places[row][real] if left.places is not None else torch.arange(length)[real]
        assert places.tolist() == (keep & valid)[row].nonzero()[:, 0].tolist()
        assert torch.equal(left.mask[row, 0][real][:, real], mask[row, 0][places][:, places])
        assert not left.mask[row, 0][real][:, ~real].any() and left.mask[row, 0].any(-1).all()


def fan_of(mutual=()):
    fan = Fan(trunk=4, branches=2, length=2, mutual=mutual)
    branch = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]]).expand(2, -1)
    return stream_of([[0, 1, 2, -1, -1, -1, -1, -1]] * 2, fan=fan, branch=branch)


def test_a_fan_stays_one_where_rows_keep_as_much():
    keep = told([[1, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]])
    left = thin(fan_of(mutual=((0, 3),)), keep, layer=0)
    assert left.fan == Fan(trunk=3, branches=2, length=2, mutual=((0, 2),)) and left.mask is None


@pytest.mark.parametrize("keep", [[[1, 0, 1], [0, 0, 1]], [[1, 1, 0], [0, 1, 1]]])
def test_a_fan_becomes_a_mask_where_they_do_not(keep):
    keep = told([[*row, 1, 1, 1, 1, 1] for row in keep])
    left = thin(fan_of(mutual=((0, 2),)), keep, layer=0)
    order = torch.tensor([[0, 0, 2, 3, 4, 5, 6, 7]]).expand(2, -1)
    whole = attention_mask(torch.ones(2, 8).bool(), queries=8, order=order, branch=fan_of().branch)
    assert left.fan is None
    for row in range(2):
        places = left.places[row][left.valid[row]]
        assert torch.equal(left.mask[row, 0][left.valid[row]][:, left.valid[row]], whole[row, 0][places][:, places])


def test_a_cache_knows_what_each_layer_holds():
    cache = KVCache(layers=3, batch=2, kv_heads=1, length=9, head_width=2)
    first = stream_of([[0, 1, 2, -1], [-1, 0, 1, -1]], cache=cache)
    cache.extend(first.valid)
    cache.update(0, torch.zeros(2, 1, 4, 2), torch.zeros(2, 1, 4, 2))
    left = thin(first, told([[0, 1, 1, 1], [1, 1, 0, 1]]), layer=1)
    cache.update(1, torch.ones(2, 1, 3, 2), torch.ones(2, 1, 3, 2))
    less = thin(left, told([[1, 0, 1], [1, 0, 0]]), layer=2)
    keys, _ = cache.update(2, torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2))
    assert (
        cache.lengths == (4, 3, 2)
        and less.places.tolist() == [[1, 3], [0, 3]]
        and less.mask[1, 0, 1].tolist() == [1, 0]
    )
    for many in (1, 2):
        cache.extend(torch.ones(2, many, dtype=torch.bool))
        plain = attention_mask(cache.valid[:, : cache.filled], queries=many) if many > 1 else None
        later = stream_of([[-1] * many] * 2, cache=cache, mask=plain)
        one = thin(later, None, layer=1)
        two = thin(one, None, layer=2)
        held = 3 if many == 1 else 5
        assert two.mask.shape == (2, 1, many, held) and two.mask[0, 0, 0, :3].all()
        assert two.mask[1, 0, 0, :3].tolist() == [1, 0, 1] and two.places is None
        assert one.mask is None if many == 1 else one.mask.shape[-1] == 6
        for layer in range(3):
            cache.update(layer, torch.zeros(2, 1, many, 2), torch.zeros(2, 1, many, 2))
    assert keys.shape[2] == 2 and cache.lengths == (7, 6, 5)


def test_ranks_and_ends_of_groups():
    group = torch.tensor([[-1, 5, 5, 2, 5, -1, 2]])
    assert ranks(group).tolist() == [[0, 0, 1, 0, 2, 1, 1]]
    assert ends(group).tolist() == [[5, 4, 4, 6, 4, 5, 6]]
    score = torch.tensor([[0.0, 1.0, 3.0, 2.0, 3.0, 0.0, 9.0]])
    assert ranks(group, score).tolist() == [[0, 2, 0, 1, 1, 1, 0]]
    most = torch.tensor([[0, 2, 2, 1, 2, 0, 1]])
    assert best(score, group, most).tolist() == [[True, False, True, False, True, True, True]]


def test_who_asks_of_an_image():
    prompt = told([[1, 1, 1, 1, 0, 0, 0, 0]])
    stream = stream_of([[0, 1, -1, -1, -1, 2, 3, -1]], prompt=prompt)
    group = groups(stream, images(2, 2))
    assert group.tolist() == [[0, 0, -1, -1, -1, 1, 1, -1]]
    asked = askers(stream, group)
    assert asked[0, [0, 1, 5, 6]].tolist() == [3, 3, 6, 6]  # an image after the prompt is asked of from its own end
    assert askers(replace(stream, prompt=None), group)[0, 0] == 1


def test_who_asks_in_packed_rows():
    segment, branch = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, -1]]), torch.tensor([[0, 0, 1, 2, 0, 1, 1, 1, 0]])
    prompt = told([[1, 1, 1, 1, 1, 1, 1, 0, 0]])
    stream = stream_of([[0, -1, -1, 1, 0, -1, 2, -1, -1]], segment=segment, branch=branch, prompt=prompt)
    group = groups(stream, images(1, 1, 1))
    assert len(set(group[0, [0, 3, 4, 6]].tolist())) == 4
    asked = askers(stream, group)
    assert asked[0, [0, 3, 4, 6]].tolist() == [3, 3, 6, 6]
    assert stretches(stream).tolist() == [[0, 0, 1, 2, 3, 4, 4, 4, 5]]
    alone = askers(replace(stream, branch=None), groups(replace(stream, branch=None), images(1, 1, 1)))
    assert alone[0, [0, 3, 4, 6]].tolist() == [3, 3, 6, 6]
