import pytest
import torch
from torch import nn

from foveal.core.errors import InputError
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


def test_words_that_are_only_read_are_not_scored():
    table = nn.Parameter(torch.randn(10, 4))
    assert LanguageModel(width=4, vocabulary=10, table=table, words=7)(torch.randn(2, 4)).shape == (2, 7)
    with pytest.raises(InputError, match="scores 7 words, tied=True, for a table of 10"):
        LanguageModel(width=4, vocabulary=10, table=table, tied=True, words=7)
    with pytest.raises(InputError, match="scores 12 words, tied=False, for a table of 10"):
        LanguageModel(width=4, vocabulary=10, table=table, words=12)
