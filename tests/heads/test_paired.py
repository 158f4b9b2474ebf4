import pytest
import torch

from foveal.core.errors import InputError
from foveal.heads.paired import Paired

SIZES = {"width": 6, "vocabulary": 9, "table": torch.nn.Parameter(torch.zeros(9, 6)), "sight": 4}


@pytest.mark.parametrize("method", ["mul", "sum"])
def test_first_tokens_are_pooled_and_joined(method):
    torch.manual_seed(0)
    head = Paired(**SIZES, labels=3, pool=5, method=method, inner=8)
    hidden, seen = torch.randn(2, 4, 6), torch.randn(2, 4)
    words, sight = head.words(hidden[:, 0]).relu(), head.sight(seen).relu()
    both = words * sight if method == "mul" else words + sight
    expected = head.classes(head.inner_norm(torch.nn.functional.gelu(head.up(both))))
    torch.testing.assert_close(head(hidden, seen, torch.tensor([True, True])), expected)
    blind = head(hidden, seen, torch.tensor([False, True]))
    torch.testing.assert_close(blind[0], head.classes(head.inner_norm(torch.nn.functional.gelu(head.up(words[0])))))
    torch.testing.assert_close(blind[1], expected[1])


def test_several_texts_are_told_as_one():
    head, there = Paired(**SIZES, rows=2), torch.ones(4, dtype=torch.bool)
    assert head(torch.randn(4, 3, 6), torch.randn(4, 4), there).shape == (2, 2)
    with pytest.raises(InputError, match="3 texts for a head that reads 2"):
        head(torch.randn(3, 3, 6), torch.randn(3, 4), there[:3])


def test_a_layer_between_may_be_without_a_norm():
    head, there = Paired(**SIZES, inner=8, norm=False, activation="relu"), torch.ones(2, dtype=torch.bool)
    hidden, seen = torch.randn(2, 4, 6), torch.randn(2, 4)
    words, sight = head.pooled(hidden, seen)
    torch.testing.assert_close(head(hidden, seen, there), head.classes(head.up(words * sight).relu()))
