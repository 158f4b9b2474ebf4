import pytest
import torch
from torch import nn

from foveal.heads.mlp_classification import MlpClassification


@pytest.mark.parametrize("late", [False, True])
def test_the_first_token_alone_decides(late):
    torch.manual_seed(0)
    table = nn.Parameter(torch.zeros(10, 4))
    head = MlpClassification(width=4, vocabulary=10, table=table, labels=3, pre_norm=True, late_norm=late)
    hidden = torch.randn(2, 5, 4)
    scores, changed = head(hidden), hidden.clone()
    assert scores.shape == (2, 3)
    changed[:, 1:] = 0
    assert torch.equal(head(changed), scores)
    assert not torch.allclose(head(-hidden), scores)


def test_the_norm_stands_before_or_after_the_activation():
    torch.manual_seed(0)
    made = [
        MlpClassification(width=4, vocabulary=9, table=nn.Parameter(torch.zeros(9, 4)), late_norm=late)
        for late in (False, True)
    ]
    made[1].load_state_dict(made[0].state_dict())
    hidden = torch.randn(1, 1, 4)
    assert not torch.allclose(made[0](hidden), made[1](hidden), atol=1e-4)
