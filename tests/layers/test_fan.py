import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.types import Fan
from foveal.layers.attention import attend
from foveal.layers.fan import attend_fan
from foveal.layers.masks import attention_mask


@settings(deadline=None, max_examples=30)
@given(
    trunk=st.integers(1, 5),
    branches=st.integers(1, 4),
    length=st.integers(1, 4),
    groups=st.sampled_from([1, 2, 4]),
    span=st.tuples(st.integers(0, 4), st.integers(2, 4)),
)
def test_equals_the_branch_mask(trunk, branches, length, groups, span):
    generator = torch.Generator().manual_seed(0)
    total = trunk + branches * length
    query = torch.randn(2, 4, total, 8, generator=generator)
    key, value = torch.randn(2, 2, groups, total, 8, generator=generator)
    branch = torch.cat([torch.zeros(trunk), torch.arange(1, branches + 1).repeat_interleave(length)]).long()
    valid = torch.ones(2, total, dtype=torch.bool)
    begin, end = span[0], min(span[0] + span[1], trunk)
    order = torch.arange(total)
    order[begin:end] = begin
    mask = attention_mask(valid, queries=total, branch=branch.expand(2, -1), order=order.expand(2, -1))
    fan = Fan(trunk=trunk, branches=branches, length=length, mutual=((begin, end),) if begin < end else ())
    fanned = attend_fan(query, key, value, fan=fan)
    torch.testing.assert_close(fanned, attend(query, key, value, mask=mask), atol=1e-6, rtol=1e-5)
