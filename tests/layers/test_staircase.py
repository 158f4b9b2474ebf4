import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from foveal.evaluation.flops import Flops
from foveal.layers import staircase
from foveal.layers.attention import attend


def heads(*, length: int, query_heads: int = 4, key_heads: int = 2, batch: int = 2, width: int = 16):
    torch.manual_seed(0)
    counts = (query_heads, key_heads, key_heads)
    made = [torch.randn(batch, length, count, width) for count in counts]
    return [part.requires_grad_().transpose(1, 2) for part in made]


def exact(query, key, value):
    """Causal attention in double precision, with all scores at hand."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = (part.double() for part in (query, key, value))
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, float("-inf")).softmax(-1) @ value


@pytest.mark.parametrize(("length", "key_heads"), [(448, 4), (449, 2), (640, 1), (1024, 2)])
def test_stretches_have_the_gradient_of_the_whole(length, key_heads, monkeypatch):
    parts = heads(length=length, key_heads=key_heads, batch=2 if length < 1024 else 1)
    calls = []
    backward = staircase._flash_backward
    monkeypatch.setattr(staircase, "_flash_backward", lambda *given: calls.append(1) or backward(*given))
    mixed, expected = attend(*parts, causal=True), exact(*parts)
    torch.testing.assert_close(mixed.double(), expected, atol=1e-5, rtol=1e-5)
    pull = torch.randn_like(mixed)
    ours, theirs = (torch.autograd.grad(one, parts, pull.to(one.dtype)) for one in (mixed, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=2e-5)
    assert len(calls) == 2 * round(length / 128) - 1  # the first stretch has no keys before its own


def test_a_gradient_that_is_one_number_spread_out():
    parts = heads(length=500)
    spread = torch.autograd.grad(attend(*parts, causal=True).sum(), parts)
    whole = torch.autograd.grad(exact(*parts).sum(), parts)
    for mine, other in zip(spread, whole, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1)])
def test_what_is_frozen_learns_nothing_and_the_rest_as_before(frozen):
    parts = [part.detach() if i in frozen else part for i, part in enumerate(heads(length=512))]
    assert staircase.learns_by_stretches(*parts)
    learning = [part for i, part in enumerate(parts) if i not in frozen]
    pull = torch.randn(parts[0].shape)
    ours = torch.autograd.grad(staircase.attend_by_stretches(*parts), learning, pull)
    theirs = torch.autograd.grad(exact(*parts), learning, pull.double())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=2e-5)


def test_recomputed_in_the_backward_pass_it_is_the_same():
    parts = heads(length=512)
    again = checkpoint(lambda *given: attend(*given, causal=True), *parts, use_reentrant=False)
    pull = torch.randn_like(again)
    whole = torch.autograd.grad(attend(*parts, causal=True), parts, pull)
    for mine, other in zip(torch.autograd.grad(again, parts, pull), whole, strict=True):
        assert torch.equal(mine, other)


def test_half_precision_learns_too():
    query, key, value = heads(length=512)
    half = [part.detach().bfloat16().requires_grad_() for part in (query, key, value)]
    mixed = attend(*half, causal=True)
    assert mixed.dtype == torch.bfloat16
    mixed.float().square().sum().backward()
    fine = [part.detach().float().requires_grad_() for part in half]
    exact(*fine).square().sum().backward()
    for rough, other in zip(half, fine, strict=True):
        torch.testing.assert_close(rough.grad.float(), other.grad.float(), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("length", range(448, 1025, 41))
def test_stretches_cover_all_places_once(length):
    stretches = staircase._stretches(length)
    places = [place for own in stretches for place in range(own.start, own.stop)]
    assert places == list(range(length))
    assert max(own.stop - own.start for own in stretches) <= 150


def test_elsewhere_torch_does_as_it_does():
    query, key, value = heads(length=512)
    assert staircase.learns_by_stretches(query, key, value)
    with torch.no_grad():
        assert not staircase.learns_by_stretches(query, key, value)
    assert not staircase.learns_by_stretches(*(part.detach() for part in (query, key, value)))
    assert not staircase.learns_by_stretches(query.double(), key.double(), value.double())
    assert not staircase.learns_by_stretches(query[:, :, :447], key[:, :, :447], value[:, :, :447])
    assert not staircase.learns_by_stretches(query[:, :, -1:], key, value)
    assert not staircase.learns_by_stretches(query, key, value[..., :8])
    assert not staircase.learns_by_stretches(query, key, value.flip(2).mT.contiguous().mT)
    assert not staircase.learns_by_stretches(*heads(length=1025, batch=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not staircase.learns_by_stretches(query, key, value)


def test_a_second_derivative_can_be_had_of_torchs_formula():
    query, key, value = heads(length=512)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = torch.autograd.grad(attend(query, key, value, causal=True).sum(), value, create_graph=True)[0]
    assert first.requires_grad


@pytest.mark.parametrize("length", [447, 448, 512])
def test_what_is_counted_is_the_whole_of_attention(length):
    parts = heads(length=length)
    with Flops() as flops:
        attend(*parts, causal=True).sum().backward()
    (query, key, value), pairs = parts, 2 * 4 * length**2
    forward = 2 * pairs * (query.shape[-1] + value.shape[-1])
    assert flops.total == forward + 2 * pairs * (3 * key.shape[-1] + 2 * value.shape[-1])


def test_a_mask_is_obeyed():
    parts, length = heads(length=512), 512
    mask = torch.ones(2, 1, length, length, dtype=torch.bool).tril(-1)
    mask[..., 0] = True
    masked = attend(*parts, mask=mask)
    assert not torch.allclose(masked, attend(*parts, causal=True), atol=1e-3)


def test_a_traced_model_holds_torchs_own_attention(monkeypatch):
    parts = heads(length=512)
    given = tuple(part.detach().requires_grad_() for part in parts)
    monkeypatch.setattr(staircase._Attention, "apply", None)
    exported = torch.export.export(_Attend(), given)
    whole = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(exported.module()(*given), whole, atol=1e-5, rtol=1e-5)


class _Attend(torch.nn.Module):
    def forward(self, query, key, value):
        return attend(query, key, value, causal=True)
