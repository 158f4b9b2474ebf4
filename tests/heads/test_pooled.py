import torch
from torch import nn

from foveal.heads.pooled import Pooled


def test_the_first_token_is_mapped_and_bounded():
    torch.manual_seed(0)
    head, hidden = Pooled(width=4, vocabulary=5, table=nn.Parameter(torch.zeros(5, 4))), torch.randn(2, 3, 4) * 9
    told = head(hidden)
    torch.testing.assert_close(told.atanh(), head.pool(hidden[:, 0]), atol=1e-4, rtol=1e-3)
    assert torch.equal(head(hidden[:, :1]), told)
