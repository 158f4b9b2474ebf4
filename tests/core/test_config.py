from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.config import dump, later, override, parse
from foveal.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    inner: Inner = Inner()
    layers: tuple[int, ...] = (1, 2)
    size: int | tuple[int, int] | None = None
    several: tuple[Inner, ...] = ()


@given(
    st.builds(
        Outer,
        steps=st.integers(),
        inner=st.builds(Inner, rate=st.floats(allow_nan=False), mode=st.sampled_from(["a", "b"])),
        layers=st.lists(st.integers(), max_size=4).map(tuple),
        size=st.none() | st.integers() | st.tuples(st.integers(), st.integers()),
        several=st.lists(st.builds(Inner, rate=st.floats(allow_nan=False)), max_size=2).map(tuple),
    )
)
def test_round_trip(config):
    assert parse(Outer, dump(config), where="outer") == config


@pytest.mark.parametrize(
    ("given_mapping", "message"),
    [
        ({"step": 1}, "unknown key in outer: 'step'; did you mean 'steps'"),
        ({}, "outer lacks 'steps'"),
        ({"steps": "many"}, "outer.steps is 'many'; give it a value of type int"),
        ({"steps": True}, "outer.steps is True"),
        ({"steps": 1, "inner": {"rat": 2}}, "unknown key in outer.inner: 'rat'; did you mean 'rate'"),
        ({"steps": 1, "inner": {"mode": "c"}}, "known: a, b"),
        ({"steps": 1, "layers": [1, "x"]}, r"outer.layers\[1\] is 'x'"),
        ({"steps": 1, "size": [1, 2, 3]}, "outer.size has 3 entries; give 2"),
        ({"steps": 1, "inner": 3}, "outer.inner is 3; give it a value of type Inner"),
    ],
)
def test_errors_say_where_and_what(given_mapping, message):
    with pytest.raises(InputError, match=message):
        parse(Outer, given_mapping, where="outer")


def test_scientific_notation_of_yaml_is_a_number():
    assert parse(Inner, {"rate": "1e-3"}, where="inner").rate == 1e-3


def test_a_field_that_came_later_is_said_only_where_it_says_something():
    @dataclass(frozen=True, kw_only=True)
    class Grown:
        steps: int = 1
        choices: int = later(0)

    assert dump(Grown()) == {"steps": 1}
    assert dump(Grown(choices=4)) == {"steps": 1, "choices": 4}
    assert parse(Grown, dump(Grown(choices=4)), where="grown") == Grown(choices=4)
    assert parse(Grown, dump(Grown()), where="grown") == Grown()


def test_override_reaches_into_maps_and_lists_and_copies():
    given_mapping = {"a": {"b": [{"c": 1}]}}
    assert override(given_mapping, ["a.b.0.c=[2, 3]", "a.d=yes"]) == {"a": {"b": [{"c": [2, 3]}], "d": True}}
    assert given_mapping == {"a": {"b": [{"c": 1}]}}


def test_override_begins_what_is_not_there_and_the_outermost_only_where_it_is_known():
    assert override({"a": {"b": [{"c": None}]}}, ["a.b.0.c.d=1", "a.e.f=2"]) == {
        "a": {"b": [{"c": {"d": 1}}], "e": {"f": 2}}
    }
    assert override({}, ["init.vision=x"], ["init"]) == {"init": {"vision": "x"}}
    with pytest.raises(InputError, match="unknown key 'inti'; did you mean 'init'"):
        override({}, ["inti.vision=x"], ["init"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a", "is not an assignment"),
        ("trainin.steps=1", "did you mean 'training'"),
        ("training.stages.4.lr=1", "wants an index from 0 to 0"),
        ("training.steps.x=1", "goes into a plain value"),
        ("training.steps.x.y=1", "goes into a plain value"),
        ("training.steps=[", "is not YAML"),
    ],
)
def test_override_errors(assignment, message):
    with pytest.raises(InputError, match=message):
        override({"training": {"steps": 1, "stages": [{}]}}, [assignment])
