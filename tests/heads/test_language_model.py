import torch
from torch import nn

from foveal.heads.language_model import LanguageModel


def test_tied_shares_the_table_and_takes_no_memory_of_its_own():
    table = nn.Parameter(torch.randn(10, 4))
    head = LanguageModel(width=4, vocabulary=10, table=table, tied=True)
    assert head.map.weight is table
    hidden = torch.randn(2, 3, 4)
    torch.testing.assert_close(head(hidden), hidden @ table.T)


def test_untied_has_its_own_small_weights():
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(1000, 64))
    head = LanguageModel(width=64, vocabulary=1000, table=table)
    assert head.map.weight is not table
    assert abs(head.map.weight.std().item() - 0.02) < 0.001
