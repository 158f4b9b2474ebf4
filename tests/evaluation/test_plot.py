import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foveal.evaluation.plot import curve, scale, smooth, thin, ticks
from foveal.evaluation.score import Rate

finite = st.floats(-1e6, 1e6)


def numbers(path):
    return [tuple(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]]


@given(finite, finite)
def test_ticks_lie_within_and_evenly(low, high):
    assume(high - low > 1e-3)
    found = ticks(low, high)
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert 2 <= len(found) <= 12
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) - min(gaps) < slack + 1e-6


def test_ticks_by_hand():
    assert ticks(0, 4.1, about=4) == [0, 1, 2, 3, 4]
    assert ticks(0, 2400, about=6) == [0, 500, 1000, 1500, 2000]
    assert ticks(3, 3) == [3]


def test_a_running_mean_by_hand():
    points = [(i, float(y)) for i, y in enumerate([0, 3, 6, 9])]
    assert smooth(points, span=3) == [(0, 1.5), (1, 3), (2, 6), (3, 7.5)]


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40), st.integers(2, 20))
def test_thinning_keeps_the_ends(points, most):
    kept = thin(points, most=most)
    assert len(kept) <= max(most, 1)
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_a_falling_loss_is_drawn_falling_and_within_the_picture():
    drawing = curve({"one": [(step, 5.0 - step / 50) for step in range(100)], "two": [(150, 2.0), (199, 1.0)]})
    tree = ElementTree.fromstring(drawing)
    _, _, width, height = map(float, tree.attrib["viewBox"].split())
    means = [numbers(path.attrib["d"]) for path in tree.iter("path") if path.attrib["class"] == "mean"]
    assert len(means) == 2
    everything = [point for mean in means for point in mean]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in everything)
    assert [x for x, _ in everything] == sorted(x for x, _ in everything)
    assert everything[0][1] < everything[-1][1]  # y counts downwards
    assert [text.text for text in tree.iter("text") if text.attrib["class"] == "stage"] == ["one", "two"]


def test_a_loss_that_is_no_number_leaves_a_gap_and_no_more():
    drawing = curve({"one": [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]})
    assert "nan" not in drawing and "inf " not in drawing
    ElementTree.fromstring(drawing)


@pytest.mark.parametrize("stages", [{}, {"one": []}, {"one": [(0, 1.0)]}])
def test_too_few_points_are_said_in_words(stages):
    assert "Too few points" in curve(stages)


def test_a_rate_is_drawn_with_its_interval_and_marks():
    drawing = scale(Rate(value=0.5, low=0.25, high=0.75, count=4), {"majority": 0.125})
    tree = ElementTree.fromstring(drawing)
    (bar,) = tree.iter("rect")
    assert bar.attrib["width"] == "50.00%"
    lines = {line.attrib["class"]: line.attrib for line in tree.iter("line")}
    assert (lines["whisker"]["x1"], lines["whisker"]["x2"]) == ("25.00%", "75.00%")
    assert lines["mark majority"]["x1"] == "12.50%"
    assert "50.0%, 95% interval 25.0% to 75.0%; majority 12.5%" in tree.attrib["aria-label"]
