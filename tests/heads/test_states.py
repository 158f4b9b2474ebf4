import torch
from torch import nn

from foveal.heads.states import States


def test_states_stay_as_they_are():
    hidden = torch.randn(2, 3, 4)
    assert States(width=4, vocabulary=5, table=nn.Parameter(torch.zeros(5, 4)))(hidden) is hidden
