"""The figures are those of the package anls 0.0.2 on the same answers, but where a comment says otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.evaluation.metrics.anls import distance, figures, parts, similarity
from tests.evaluation.asking import ask


@pytest.mark.parametrize(
    ("answer", "golds", "official"),
    [
        ("hello wrld", ["hello world", "hi"], 0.9090909090909091),
        ("Hello World", ["hello world"], 1.0),
        ("12 May", ["May 12, 2001"], 0.0),
        ("abc", ["abd"], 0.6666666666666667),
        ("ab", ["cd"], 0.0),
        ("Answer: 42", ["42"], 0.0),
        ("new york city", ["New York", "NYC"], 0.6153846153846154),
        ("abxyz", ["abcde"], 0.0),
        ("abxy", ["abcd"], 0.5),  # the challenge's own code counts one half, the package does not
        ("", [""], 1.0),
    ],
)
def test_similarity_is_the_official_one(answer, golds, official):
    assert similarity(answer, golds) == pytest.approx(official)


def test_lengths_are_those_of_the_text_as_given():
    """By the challenge's own code, which takes runs of spaces out of the letters and not of the length."""
    assert similarity("ab   c", ["abd c"]) == pytest.approx(1 - 1 / 6)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_distance_is_one(a, b, c):
    assert distance(a, b) == distance(b, a) and (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


def test_the_figure_is_the_mean():
    asked = [ask("hello world", answers=("hello world", "hi")), ask("cd")]
    assert figures(parts(asked, ["hello wrld", "ab"]).sum(0)) == pytest.approx([0.9090909090909091 / 2])


def test_lengths_are_those_of_capitals_as_in_the_official_code():
    assert similarity("stra\u00dfe", ["strase"]) == pytest.approx(1 - 1 / 7)
