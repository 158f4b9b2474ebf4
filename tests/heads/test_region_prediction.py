import torch
from torch import nn

from foveal.heads.region_prediction import RegionPrediction


def test_it_tells_as_many_numbers_as_it_has_labels():
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(10, 4))
    head = RegionPrediction(width=4, vocabulary=10, table=table, labels=7, activation="relu")
    hidden = torch.randn(2, 3, 4)
    normed = nn.functional.layer_norm(torch.relu(hidden @ head.transform.weight.T), (4,), eps=1e-12)
    torch.testing.assert_close(head(hidden), normed @ head.classes.weight.T)
    assert head(hidden[0, :2]).shape == (2, 7)
