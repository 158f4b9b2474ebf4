from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.evaluation.questions import Question
from foveal.evaluation.score import lead, lead_trainings, matches, normalise, score, score_trainings


def ask(truth, *, scene="s", kind="k", text="?"):
    return Question(id="", scene=scene, kind=kind, text=text, truth=truth, example=Example(id="", messages=()))


def some(count, *, scenes=50, kinds=3, seed=0):
    random = np.random.default_rng(seed)
    return [ask("yes", scene=str(random.integers(scenes)), kind=f"k{random.integers(kinds)}") for _ in range(count)]


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("The fox.", "fox"),
        ("  top  LEFT ", "top left"),
        ("Three", "3"),
        ("twelve foxes!", "12 foxes"),
        ("it's", "its"),
        ("3.5", "3.5."),
        ("top-left", "top left"),
        ("\uff11\uff12", "12"),
        ("A", "a"),
        ("an apple, a pear", "apple pear"),
        ("1,000", "1000"),
        ("(\u22123)", "-3"),
        ("x < 5", "x 5"),
        ("\u00bd", "1/2"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u0905\u0917\u094d\u0928\u093f-5", "\u0905\u0917\u094d\u0928\u093f 5"),
    ],
)
def test_answers_that_are_the_same(answer, truth):
    assert matches(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("foxes", "fox"),
        ("3.5", "35"),
        ("left top", "top left"),
        ("", ""),
        ("yes no", "yes"),
        ("13", "thirty"),
        (".", "."),
        ("-3", "3"),
        ("+1", "-1"),
        ("-$3", "$3"),
        (".5", "5"),
        ("<5", ">5"),
        ("C#", "C++"),
        ("C#", "C"),
        ("\u0915\u093f", "\u0915\u0941"),  # Hindi: that, and bad
        ("\u092a\u093e\u0928\u0940", "\u092a\u093e\u0928"),  # water, and betel leaf
        ("\u0e44\u0e21\u0e48", "\u0e44\u0e21\u0e49"),  # Thai: no, and wood
    ],
)
def test_answers_that_are_not(answer, truth):
    assert not matches(answer, truth)


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(alphabet="abc1 .the", max_size=20))
def test_case_and_outer_space_never_count(text):
    assert normalise(f"  {text.upper()} ") == normalise(text)


def test_any_of_several_true_answers_is_right_and_stands_in_a_lead():
    asked = [replace(ask("zzz"), answers=("zzz", "1")), ask("2")]
    assert score(asked, ["one", "2"]).exact_match.value == 1
    assert lead(asked, ["one", "2"], ["zzz", "3"]).exact_match.value == pytest.approx(0.5)


def test_rates_by_hand():
    asked = [ask("1", kind="count"), ask("2", kind="count"), ask("yes", kind="present"), ask("no", kind="present")]
    asked += [ask("fox", kind="read")]
    scores = score(asked, ["one", "3", "yes", "yes", "owl"])
    assert scores.exact_match.value == pytest.approx(2 / 5)
    assert scores.mean_over_kinds.value == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert {kind: rate.value for kind, rate in scores.kinds.items()} == {"count": 0.5, "present": 0.5, "read": 0.0}
    assert {kind: rate.count for kind, rate in scores.kinds.items()} == {"count": 2, "present": 2, "read": 1}
    assert scores.exact_match.count == 5


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 20))
def test_intervals_hold_the_rate_and_stay_within_0_and_1(hits, scenes):
    asked = [ask("yes", scene=str(i % scenes), kind=str(i % 2)) for i in range(len(hits))]
    scores = score(asked, ["yes" if hit else "no" for hit in hits])
    for rate in (scores.exact_match, *scores.kinds.values()):
        assert 0 <= rate.low <= rate.high <= 1
    assert scores.exact_match.value == pytest.approx(np.mean(hits))


def test_the_same_answers_get_the_same_interval():
    asked = some(200)
    answers = ["yes" if i % 3 else "no" for i in range(200)]
    assert score(asked, answers) == score(asked, answers)


def test_the_interval_is_that_of_a_mean_of_scenes():
    """With one question a scene the bootstrap must agree with the normal approximation."""
    random = np.random.default_rng(1)
    hits = random.random(2000) < 0.3
    asked = [ask("yes", scene=str(i)) for i in range(2000)]
    rate = score(asked, np.where(hits, "yes", "no").tolist()).exact_match
    half = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    assert rate.high - rate.low == pytest.approx(2 * half, rel=0.08)


def test_questions_of_one_scene_are_no_independent_evidence():
    hits = np.arange(1000) % 100 < 50  # ten questions each of 100 scenes, all right or all wrong
    together = [ask("yes", scene=str(i % 100)) for i in range(1000)]
    apart = [ask("yes", scene=str(i)) for i in range(1000)]
    answers = np.where(hits, "yes", "no").tolist()
    wide, narrow = score(together, answers).exact_match, score(apart, answers).exact_match
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


def test_a_lead_over_oneself_is_nothing():
    asked = some(100)
    answers = ["yes" if i % 2 else "no" for i in range(100)]
    ahead = lead(asked, answers, answers).exact_match
    assert (ahead.value, ahead.low, ahead.high) == (0, 0, 0)


def test_a_paired_lead_is_surer_than_two_intervals():
    """Two sets of answers that differ on few questions: the pairing takes out what they share."""
    asked = some(1000, scenes=1000)
    ours = ["yes" if i % 2 else "no" for i in range(1000)]
    theirs = ["no" if i % 25 == 1 else answer for i, answer in enumerate(ours)]
    ahead = lead(asked, ours, theirs).exact_match
    assert ahead.low > 0
    assert score(asked, theirs).exact_match.high > score(asked, ours).exact_match.low


def test_a_lead_is_the_difference_of_the_rates():
    asked = some(300)
    ours, theirs = ["yes"] * 300, ["yes" if i % 4 else "no" for i in range(300)]
    ahead = lead(asked, ours, theirs)
    for part in ("exact_match", "mean_over_kinds"):
        difference = getattr(score(asked, ours), part).value - getattr(score(asked, theirs), part).value
        assert getattr(ahead, part).value == pytest.approx(difference)


def test_answers_must_be_as_many_as_questions():
    with pytest.raises(InputError, match="2 answers to 1 questions"):
        score([ask("yes")], ["yes", "no"])


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="no questions"):
        score([], [])


def test_a_training_by_itself_is_scored_as_ever_and_trainings_that_agree_are_one():
    asked = some(300)
    answers = np.random.default_rng(1).choice(["yes", "no"], 300).tolist()
    assert score_trainings(asked, [answers]) == score(asked, answers)
    once, thrice = score(asked, answers), score_trainings(asked, [answers] * 3)
    assert thrice.exact_match.low == pytest.approx(once.exact_match.low)
    assert thrice.exact_match.high == pytest.approx(once.exact_match.high)


def test_trainings_that_differ_widen_the_interval_and_meet_in_the_mean():
    asked = some(1000, scenes=500)
    good, bad = ["yes"] * 900 + ["no"] * 100, ["yes"] * 500 + ["no"] * 500
    both = score_trainings(asked, [good, bad]).exact_match
    assert both.value == pytest.approx(0.7)
    assert both.low == pytest.approx(0.5, abs=0.05) and both.high == pytest.approx(0.9, abs=0.05)


def test_a_lead_over_trainings_is_paired_by_training():
    asked = some(1000, scenes=500)
    theirs = [["yes"] * 900 + ["no"] * 100, ["yes"] * 500 + ["no"] * 500]
    ours = [["yes"] * 950 + ["no"] * 50, ["yes"] * 550 + ["no"] * 450]
    ahead = lead_trainings(asked, ours, theirs).exact_match
    assert ahead.value == pytest.approx(0.05) and ahead.low > 0.03
    single = lead_trainings(asked, ours, [theirs[0]]).exact_match  # no pairs: what is drawn of ours moves the lead
    assert single.low < -0.3


def test_no_training_is_no_score():
    with pytest.raises(InputError, match="one training at least"):
        score_trainings(some(3), [])
