"""What images are worth: a price a token, or a total that they share."""

import jaxtyping
import numpy as np
import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.allocation import allocate
from foveal.relevance.pricing import Terms, gained, shared


def keys(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_a_total_goes_to_whom_a_token_gains_most_and_is_spent_to_the_last():
    some = [keys(9, 5, 1), keys(8, 7, 6), keys(2, 2, 2)]
    assert shared(some, 3, least=1, most=4) == [1, 1, 1]
    assert shared(some, 7, least=1, most=4) == [2, 4, 1]
    assert shared(some, 8, least=1, most=4) == [3, 4, 1]
    assert shared(some, 8, least=2, most=3) == [3, 3, 2]
    assert shared(some, 99, least=1, most=4) == [4, 4, 4]
    with pytest.raises(InputError, match="a total of 5 visual tokens for 3 images of 2 or more; give 6"):
        shared(some, 5, least=2, most=4)


def test_a_price_gives_each_image_its_own_whatever_is_beside_it():
    terms = Terms(price=0.5, least=1, most=3)
    assert terms.counts([keys(0.9, 0.6, 0.5, 0.1), keys(0.4, 0.3), keys()]) == [3, 1, 1]
    assert str(terms) == "price 0.5" and str(Terms(total=9)) == "total 9"


def test_terms_hold_numbers_of_python_whatever_they_were(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # who calls is not checked either
    terms = Terms(total=np.int64(9), least=torch.tensor(2), most=np.int32(4))
    assert terms == Terms(total=9, least=2, most=4) and {type(n) for n in (terms.total, terms.fewest)} == {int}
    assert type(Terms(price=np.float32(0.5)).price) is float


def test_gains_are_shares_that_no_scale_changes_and_a_plain_image_is_worth_less():
    torch.manual_seed(0)
    features, weight = torch.randn(1, 16, 4), torch.full((1, 16), 1 / 16)
    plain = 1 + 0.1 * features
    found = []
    for some in (features, 7 * features, plain):
        made = allocate(some, grid=(4, 4), budget=1, relevance=weight)
        found.append(gained(made.keys, some, weight))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    assert 0 < found[2].sum() < 0.1 < found[0].sum() <= 16
    counts = [Terms(price=0.01, least=1, most=16).counts(list(one))[0] for one in found]
    assert counts[0] == counts[1] > counts[2]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "give one of the two"),
        ({"price": 0.1, "total": 9}, "give one of the two"),
        ({"price": 0.0}, "a price of 0 a token; give a share above 0"),
        ({"price": float("nan")}, "a price of nan a token"),
        ({"total": 0}, "a total of 0 visual tokens"),
        ({"total": 9, "least": 5, "most": 4}, "5 to 4 tokens an image"),
    ],
)
def test_terms_that_make_no_sense_are_refused(given, line):
    with pytest.raises(InputError, match=line):
        Terms(**given)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"total": "30"}, "a total of '30' visual tokens; give a whole number"),
        ({"total": 2.5}, "a total of 2.5 visual tokens"),
        ({"total": True}, "a total of True visual tokens"),
        ({"price": "x"}, "a price of 'x' a token; give a share above 0"),
        ({"price": True}, "a price of True a token"),
        ({"total": 9, "least": "x"}, "'x' to 400 tokens an image; give whole numbers"),
        ({"price": 0.1, "most": None}, "64 to None tokens an image"),
    ],
)
def test_terms_of_no_such_type_are_refused_too(given, line, untyped):
    with pytest.raises(InputError, match=line):
        Terms(**given)
