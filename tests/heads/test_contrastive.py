import torch
from torch import nn

from foveal.heads.contrastive import Contrastive


def head(**more):
    torch.manual_seed(0)
    return Contrastive(width=4, vocabulary=5, table=nn.Parameter(torch.zeros(5, 4)), **more)


def test_a_product_is_the_cosine_over_the_temperature():
    made, states = head(temperature=0.1, size=3), torch.randn(2, 4)
    told = made(states)
    assert told.shape == (2, 2, 3)
    cosine = torch.cosine_similarity(states[0] @ made.sight.weight.T, states[1] @ made.words.weight.T, dim=0)
    torch.testing.assert_close(told[0, 0] @ told[1, 1], cosine / 0.1)


def test_the_temperature_learns():
    made = head()
    told = made(torch.randn(3, 4))
    (told[:, 0] @ told[:, 1].T).log_softmax(-1).trace().backward()
    assert made.scale.grad.abs() > 0
