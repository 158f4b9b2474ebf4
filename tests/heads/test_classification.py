import torch
from torch import nn

from foveal.heads.classification import Classification


def test_the_first_token_alone_decides():
    torch.manual_seed(0)
    head = Classification(width=4, vocabulary=10, table=nn.Parameter(torch.zeros(10, 4)), labels=3)
    hidden = torch.randn(2, 5, 4)
    scores = head(hidden)
    assert scores.shape == (2, 3)
    changed = hidden.clone()
    changed[:, 1:] = 0
    assert torch.equal(head(changed), scores)
    changed[:, 0] += 1
    assert not torch.allclose(head(changed), scores)
