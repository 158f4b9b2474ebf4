import pytest
import torch

from foveal.core.errors import InputError
from foveal.evaluation.probe import probe


def test_it_tells_what_can_be_told_and_always_the_same():
    chance = torch.Generator().manual_seed(0)
    centres = torch.tensor([[4.0, 0.0, 100.0], [0.0, 4.0, 100.0], [-4.0, -4.0, 100.0]])  # the third says nothing
    names = ["a", "b", "c"] * 30
    features = centres.repeat(30, 1) + torch.randn(90, 3, generator=chance)
    one, other = probe(features, names), probe(features, names)
    assert one.weight.equal(other.weight) and one.names == ("a", "b", "c")
    fresh = centres.repeat(30, 1) + torch.randn(90, 3, generator=chance)
    assert sum(said == name for said, name in zip(one(fresh), names, strict=True)) > 85


@pytest.mark.parametrize("names", [["a"], ["a", "a"]])
def test_features_want_names(names):
    with pytest.raises(InputError, match="2 features with"):
        probe(torch.eye(2), names)
