import pytest
import torch

from foveal.core.errors import InputError
from foveal.layers.attention import Attention, attend, attend_apart
from foveal.layers.cache import KVCache
from foveal.layers.masks import attention_mask
from foveal.layers.norms import HeadNorm


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads_equal_repeated_ones(groups):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, groups, 5, 8), torch.randn(2, groups, 5, 8)
    repeated = [part.repeat_interleave(4 // groups, dim=1) for part in (key, value)]
    scores = query @ repeated[0].transpose(-1, -2) / 8**0.5
    expected = scores.softmax(-1) @ repeated[1]
    torch.testing.assert_close(attend(query, key, value), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["none", "shown", "added", "added to each head"])
def test_one_token_of_grouped_heads_equals_the_last_of_many(groups, kind):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, groups, 5, 8), torch.randn(2, groups, 5, 8)
    query = query.transpose(1, 2)  # as a projection leaves it
    masks = {
        "none": None,
        "shown": torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1]]).bool()[:, None, None],
        "added": torch.randn(2, 1, 1, 5),
        "added to each head": torch.randn(2, 4, 1, 5),
    }
    many, one = (attend(part, key, value, mask=masks[kind]) for part in (query, query[:, :, -1:]))
    torch.testing.assert_close(one, many[:, :, -1:], atol=1e-6, rtol=1e-5)
    assert one.shape == (2, 4, 1, 8)


def test_one_token_without_rows():
    keys = torch.randn(0, 2, 5, 8)
    assert attend(torch.randn(0, 4, 1, 8), keys, keys).shape == (0, 4, 1, 8)


def test_one_token_that_learns_gives_each_key_its_gradient():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 2, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    gradients = []
    for begin in (0, 1):  # beside another, and alone
        parts = [part.clone().requires_grad_() for part in (query, key, value)]
        attend(parts[0][:, :, begin:], *parts[1:])[:, :, -1].square().sum().backward()
        gradients.append([part.grad for part in parts])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_causal_without_a_mask_equals_the_causal_mask():
    torch.manual_seed(0)
    attention = Attention(width=16, heads=4, kv_heads=2, causal=True)
    hidden = torch.randn(2, 6, 16)
    mask = attention_mask(torch.ones(2, 6, dtype=torch.bool), queries=6)
    torch.testing.assert_close(attention(hidden), attention(hidden, mask=mask), atol=1e-6, rtol=1e-5)


def test_a_head_width_of_its_own():
    attention = Attention(width=16, heads=4, head_width=6, qk_norm=lambda heads: HeadNorm(heads, 6))
    assert attention.query.weight.shape == (24, 16)
    assert attention.query_norm.weight.shape == attention.key_norm.weight.shape == (4, 6)
    assert attention(torch.randn(1, 3, 16)).shape == (1, 3, 16)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"heads": 5}, "^5 heads do not divide a width of 12; give a divisor of the width$"),
        ({"heads": 0}, "0 heads do not divide a width of 12"),
        ({"heads": 0, "head_width": 4}, "0 heads do not divide a width of 12"),
        ({"heads": 4, "kv_heads": 3}, "^3 kv_heads do not divide 4 heads; give a divisor of the heads$"),
        ({"heads": 4, "kv_heads": -2}, "-2 kv_heads do not divide 4 heads"),
    ],
)
def test_heads_that_do_not_divide_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        Attention(width=12, **settings)


def test_token_by_token_with_a_cache_equals_all_at_once():
    torch.manual_seed(0)
    attention = Attention(width=16, heads=4, kv_heads=2, causal=True)
    hidden = torch.randn(2, 5, 16)
    cache = KVCache(layers=1, batch=2, kv_heads=2, length=5, head_width=4)
    steps = []
    for i in range(5):
        cache.extend(torch.ones(2, 1, dtype=torch.bool))
        steps.append(attention(hidden[:, i : i + 1], cache=cache))
    torch.testing.assert_close(torch.cat(steps, 1), attention(hidden), atol=1e-5, rtol=1e-5)


def test_learning_in_half_precision_is_as_exact_as_its_numbers():
    torch.manual_seed(0)
    parts = [torch.randn(2, 2, 6, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, ..., 4:] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attend(*parts, mask=mask)
    assert mixed.dtype == torch.bfloat16
    mixed.float().square().sum().backward()
    exact = [part.detach().float().requires_grad_() for part in parts]
    attend(*exact, mask=mask).square().sum().backward()
    for rough, fine in zip(parts, exact, strict=True):
        torch.testing.assert_close(rough.grad.float(), fine.grad, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("lengths", [(7,), (2, 2, 3), (1, 3, 3), (3, 1, 3)])
def test_stretches_see_themselves_alone(lengths):
    torch.manual_seed(0)
    attention = Attention(width=16, heads=4, kv_heads=2)
    hidden = torch.randn(2, 7, 16, requires_grad=True)
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (number[:, None] == number).expand(2, 1, 7, 7)
    found, expected = attention(hidden, lengths=lengths), attention(hidden, mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    mine, theirs = (torch.autograd.grad(one.square().sum(), hidden)[0] for one in (found, expected))
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_stretches_are_seen_in_the_precision_of_the_values():
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))
    seen = attend_apart(query, key, value.bfloat16(), lengths=(2, 2))
    expected = attend_apart(query.bfloat16(), key.bfloat16(), value.bfloat16(), lengths=(2, 2))
    assert seen.dtype == torch.bfloat16 and torch.equal(seen, expected)
