import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.relevance import allocate
from foveal.relevance.balancing import Balancer, Tensions, affordable, statistics, unsaid


def maps(seed=0, images=2, patches=36):
    return torch.randn(images, 3, patches, generator=torch.Generator().manual_seed(seed))


def balanced(given, **tensions):
    with torch.no_grad():
        return Balancer()(given, Tensions(**tensions))


@given(st.integers(0, 50), st.floats(0.1, 5), st.floats(0.1, 5))
@settings(deadline=None, max_examples=40)
def test_a_higher_temperature_flattens_relevance(seed, one, other):
    low, high = (
        torch.special.entr(balanced(maps(seed), temperature=t, explore=0.0)).sum(-1) for t in sorted((one, other))
    )
    assert (low <= high + 1e-5).all()


@given(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_exploring_draws_relevance_to_what_matters_without_a_question(seed, one, other):
    prior = balanced(maps(seed), explore=1.0)
    less, more = ((balanced(maps(seed), explore=e) - prior).abs().sum(-1) for e in sorted((one, other)))
    assert (more <= less + 1e-5).all()
    unasked = maps(seed).clone()
    unasked[:, 2] = 7.0
    torch.testing.assert_close(balanced(unasked), prior, atol=1e-6, rtol=0)  # who asks nothing explores


@given(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_a_higher_price_buys_no_more_tokens(seed, one, other):
    chance = torch.Generator().manual_seed(seed)
    made = allocate(torch.randn(2, 100, 4, generator=chance), grid=(10, 10), budget=9)
    cheap, dear = (affordable(made.keys, price, least=4, most=60) for price in sorted((one, other)))
    assert (dear <= cheap).all() and int(dear.min()) >= 4 and int(cheap.max()) <= 60


def test_a_price_is_worth_exactly_the_splits_that_pay_it():
    keys = torch.tensor([[5.0, 3.0, 3.0, 1.0]])
    assert [affordable(keys, price, least=1, most=9).item() for price in (6.0, 5.0, 3.0, 2.0, 1.0, 0.0)] == [
        1,
        2,
        4,
        4,
        5,
        5,
    ]


def test_relevance_sums_to_one_and_its_weights_learn():
    balancer, given = Balancer(), maps().requires_grad_()
    made = balancer(given)
    torch.testing.assert_close(made.sum(-1), torch.ones(2))
    made[:, 3].sum().backward()
    assert balancer.weigh.weight.grad.abs().sum() > 0 and given.grad.abs().sum() > 0


@given(st.integers(0, 50), st.floats(-50, 50), st.sampled_from([0, 1, 2]))
@settings(deadline=None, max_examples=30)
def test_a_map_that_is_flat_but_for_rounding_says_nothing(seed, level, way):
    flat, rough = maps(seed), maps(seed)
    flat[:, way] = level
    rough[:, way] = level + (maps(seed + 100)[:, way] * max(1, abs(level)) * 1e-7).round(decimals=7)
    torch.testing.assert_close(balanced(rough), balanced(flat), atol=1e-6, rtol=1e-4)
    assert torch.equal(statistics(rough)[:, 3 + way], statistics(flat)[:, 3 + way])  # none is above the mean


def test_a_picture_of_one_colour_teaches_nothing_and_breaks_nothing():
    balancer, given = Balancer(), torch.ones(1, 3, 36, requires_grad=True)
    made = balancer(given)
    assert torch.equal(made, torch.full((1, 36), 1 / 36))
    made.square().sum().backward()
    assert given.grad.isfinite().all() and balancer.weigh.weight.grad.isfinite().all()


def test_a_question_that_couples_to_one_patch_says_much():
    sharp, flat = torch.zeros(1, 64), torch.zeros(1, 64)
    sharp[0, 5] = 4
    assert unsaid(sharp).item() < 0.05 < 0.99 < unsaid(flat).item()


def test_a_place_that_is_named_counts_and_says_how_much_was_said():
    given = maps()
    given[:, 2] = 0.0  # couples to nothing
    place = torch.zeros(2, 36)
    torch.testing.assert_close(Balancer()(given, place=place), Balancer()(given))
    place[:, 7] = 20.0
    shares = Balancer()(given, place=place)
    assert (shares[:, 7] > 0.9).all()  # what is said of a place is heard, though nothing couples
    blind = Balancer()(given, Tensions(explore=1.0), place=place)
    torch.testing.assert_close(blind, Balancer()(given))


def test_tensions_out_of_range_are_refused():
    for wrong in ({"explore": 1.5}, {"temperature": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(InputError):
            Tensions(**wrong)
    with pytest.raises(InputError, match="5 to 4 tokens"):
        affordable(torch.zeros(1, 3), 0.1, least=5, most=4)
