import torch
from torch import nn

from foveal.heads.averaged import Averaged


def test_every_state_has_an_equal_say():
    torch.manual_seed(0)
    head = Averaged(width=4, vocabulary=10, table=nn.Parameter(torch.zeros(10, 4)), labels=3)
    hidden = torch.randn(2, 5, 4)
    told = head(hidden)
    torch.testing.assert_close(told, head.classes(hidden.mean(1)))
    torch.testing.assert_close(told, head(hidden.flip(1)))
