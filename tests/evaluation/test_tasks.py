import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.example import Box
from foveal.evaluation.tasks import agreement, overlap

SIDES = st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(51, 99), st.floats(51, 99))


def box(*corners):
    return Box(label="cat", xyxy=tuple(float(value) for value in corners))


def test_overlap_is_what_both_share_of_what_they_cover():
    assert overlap(box(0, 0, 10, 10), box(0, 0, 10, 5)) == pytest.approx(0.5)
    assert overlap(box(0, 0, 4, 4), box(2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert overlap(box(0, 0, 4, 4), box(4, 0, 8, 4)) == overlap(box(0, 0, 4, 4), box(6, 6, 8, 8)) == 0
    assert overlap(box(5, 5, 5, 5), box(5, 5, 5, 5)) == overlap(box(1, 5, 9, 5), box(2, 5, 3, 5)) == 0


@given(SIDES, SIDES)
def test_overlap_is_the_same_from_either_side(first, second):
    one, other = box(*first), box(*second)
    assert overlap(one, other) == pytest.approx(overlap(other, one))
    assert 0 <= overlap(one, other) <= 1 + 1e-9
    assert overlap(one, one) == pytest.approx(1)


def test_agreement_counts_words_in_common():
    assert agreement("A fox, and an owl.", "a fox and an owl") == 1
    assert agreement("a a fox", "a fox") == pytest.approx(2 * 2 / 5)
    assert agreement("", "a fox") == agreement("dog", "a fox") == agreement("", "") == 0


def test_agreement_tells_words_apart_by_their_marks_and_numbers_by_their_signs():
    assert agreement("\u092a\u093e\u0928\u0940", "\u092a\u093e\u0928") == agreement("-3", "3") == 0
    assert agreement("\u092a\u093e\u0928\u0940.", "\u092a\u093e\u0928\u0940") == 1
