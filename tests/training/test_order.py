"""The order of examples: every one as often as wanted, the same from any place."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.training.order import Order, copies, groups


def examples(pictures, kinds=None):
    kinds = kinds or ["a"] * len(pictures)
    return [
        Example(id=str(i), messages=(), images=() if p is None else (p,), meta={"kind": k})
        for i, (p, k) in enumerate(zip(pictures, kinds, strict=True))
    ]


def test_groups_are_examples_on_the_same_images():
    data = examples(["x", "y", "x", None, None])
    assert groups(data, shared=True) == [(0, 2), (1,), (3,), (4,)]
    assert groups(data, shared=False) == [(0,), (1,), (2,), (3,), (4,)]


@given(count=st.integers(1, 40), seed=st.integers(0, 99), first=st.integers(0, 100))
def test_an_epoch_is_a_permutation_and_any_place_can_be_resumed(count, seed, first):
    make = lambda: Order([(i,) for i in range(count)], np.ones(count), seed=(seed,))  # noqa: E731
    order = make()
    epochs = [[order.at(count * epoch + i)[0] for i in range(count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    flat = [number for epoch in epochs for number in epoch]
    late = make()
    assert [late.at(place)[0] for place in range(min(first, len(flat)), len(flat))] == flat[min(first, len(flat)) :]


@given(
    weights=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0]), min_size=1, max_size=12).filter(any),
    seed=st.integers(0, 99),
)
def test_an_example_is_seen_as_often_as_its_weight_says_within_one_an_epoch(weights, seed):
    order = Order([(i,) for i in range(len(weights))], np.array(weights), seed=(seed,))
    assert len(order) == max(1, round(sum(weights)))
    epochs = 8
    seen = Counter(order.at(place)[0] for place in range(epochs * len(order)))
    scale = len(order) / sum(weights)
    for number, weight in enumerate(weights):
        assert epochs * (scale * weight - 1) <= seen[number] <= epochs * (scale * weight + 1)


def test_members_of_a_group_are_drawn_by_their_own_weights():
    order = Order([(0, 1, 2)], np.array([1.0, 0.5, 0.0]), seed=(0,))
    seen = Counter(member for place in range(400) for member in order.at(place))
    assert seen[0] == 400
    assert 150 < seen[1] < 250
    assert seen[2] == 0


def test_a_limit_takes_some_of_a_group_and_others_at_the_next_visit():
    order = Order([tuple(range(6))], np.ones(6), seed=(0,), limit=2)
    visits = [order.at(place) for place in range(60)]
    assert all(len(set(visit)) == 2 and list(visit) == sorted(visit) for visit in visits)
    assert {member for visit in visits for member in visit} == set(range(6))


def test_kinds_have_weights_and_the_rest_is_a_star():
    data = examples(["x", "y", "z"], ["a", "b", "c"])
    assert copies(data, {"a": 2.0, "*": 0.5}).tolist() == [2.0, 0.5, 0.5]
    assert copies(data, {}).tolist() == [1.0, 1.0, 1.0]
    assert copies(data, {"b": 0.0, "d": 0.0}).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(InputError, match="unknown kind in the data: 'd'; known: a, b, c"):
        copies(data, {"d": 0.5})
    with pytest.raises(InputError, match="weight -1"):
        copies(data, {"a": -1.0})
    with pytest.raises(
        InputError, match=r"an epoch of 1e\+12 visits to 3 examples, and an order holds 268,435,456; give"
    ):
        copies(data, {"a": 1e12})
    with pytest.raises(InputError, match="no example is left"):
        Order(groups(data, shared=False), copies(data, {"*": 0.0}), seed=(0,))


def test_a_stage_takes_the_sources_that_it_names():
    data = [Example(id=str(i), messages=(), meta={"source": source}) for i, source in enumerate("aab")]
    assert copies(data, {}, ("b",)).tolist() == [0.0, 0.0, 1.0]
    assert copies(data, {}).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(InputError, match="unknown source in the data: 'c'"):
        copies(data, {}, ("c",))
