import torch
from torch import nn

from foveal.heads.token_classification import TokenClassification


def test_each_token_is_scored_by_itself():
    torch.manual_seed(0)
    head = TokenClassification(width=4, vocabulary=10, table=nn.Parameter(torch.randn(10, 4)), labels=3)
    hidden = torch.randn(2, 5, 4)
    told = head(hidden)
    assert told.shape == (2, 5, 3)
    torch.testing.assert_close(head(hidden[0, 2]), told[0, 2])
    torch.testing.assert_close(told, hidden @ head.classes.weight.T)
