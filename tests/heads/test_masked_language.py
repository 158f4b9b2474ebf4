import torch
from torch import nn

from foveal.heads.masked_language import MaskedLanguage


def test_it_scores_by_the_table_and_its_own_bias():
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(10, 4))
    head = MaskedLanguage(width=4, vocabulary=10, table=table, activation="relu")
    hidden = torch.randn(2, 3, 4)
    transformed = torch.relu(hidden @ head.transform.weight.T)
    normed = nn.functional.layer_norm(transformed, (4,), eps=1e-12)
    torch.testing.assert_close(head(hidden), normed @ table.T)
    with torch.no_grad():
        head.bias[3] = 5.0
    assert (head(hidden)[..., 3] - (normed @ table.T)[..., 3]).mean().isclose(torch.tensor(5.0))
    assert head.table is table


def test_a_table_of_its_own_begins_as_that_of_the_language_model():
    table = nn.Parameter(torch.randn(10, 4))
    head = MaskedLanguage(width=4, vocabulary=10, table=table, tied=False)
    assert torch.equal(head.table, table) and head.table is not table
    head(torch.randn(2, 4)).sum().backward()
    assert head.table.grad is not None and table.grad is None
