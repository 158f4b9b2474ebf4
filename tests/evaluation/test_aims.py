import pytest

from foveal.evaluation.aims import ALL, Table, above_smaller, best, cheap, faster, kept
from foveal.evaluation.latency import Latency
from foveal.evaluation.spending import Spent
from tests.evaluation.asking import ask

ASKED = [ask("yes", scene=str(number), kind="ab"[number % 2], id=str(number)) for number in range(40)]


def said(right_a, right_b):
    """So many right answers of twenty to each kind."""
    left = {"a": right_a, "b": right_b}
    answers = []
    for question in ASKED:
        answers.append("yes" if left[question.kind] > 0 else "no")
        left[question.kind] -= 1
    return tuple(answers)


def row(strategy, budget, a, b, tokens=None):
    return Spent(strategy=strategy, budget=budget, answers=(said(a, b),), tokens=float(tokens or budget or 16))


def table(*rows):
    return Table.of(ASKED, [row("all", None, 20, 20), *rows])


def a_time(**parts):
    given = {"encoder": 1.0, "scorer": 0.1, "prefill": 1.0, "total": 2.1, "faster": 2.0, "share": 0.05, "held": 9}
    return Latency(**{**given, **parts})


def test_best_everywhere_within_and_below():
    assert best(table(row("foveal", 4, 20, 18), row("grid", 4, 10, 18))).met
    near = best(table(row("foveal", 4, 17, 18), row("grid", 4, 18, 18)))
    assert near.met and near.told == "best in 1, within in 2, below in 0 of 3"
    below = best(table(row("foveal", 4, 2, 18), row("foveal", 8, 20, 20), row("grid", 4, 20, 18)))
    assert not below.met
    assert below.told.startswith(
        "best in 4, within in 0, below in 2 of 6; furthest below by 90.0 points: a at 4 (grid)"
    )


def test_those_that_read_more_are_told_apart():
    rows = table(row("foveal", 4, 10, 10), row("grid", 4, 5, 5), row("fastv", 4, 20, 20, tokens=9.5))
    assert best(rows).met
    assert not best(rows, more=True).met and "fastv" in best(rows, more=True).told


def test_what_cannot_be_is_no_rival_and_what_is_not_there_is_not_measured():
    refused = Spent(strategy="scope", budget=4, refused="no attention")
    assert best(table(row("foveal", 4, 1, 1), refused)).met
    assert best(table(row("grid", 4, 1, 1))).met is None
    assert above_smaller(table(row("foveal", 4, 1, 1))).met is None
    assert kept(table(), 4, 0.11).met is None


def test_above_downsampling():
    won = above_smaller(table(row("foveal", 4, 20, 12), row("downsample", 4, 5, 11)))
    assert won.met and won.told == "above in 3, of these 2 surely, equal in 0, below in 0 of 3"
    lost = above_smaller(table(row("foveal", 4, 20, 12), row("downsample", 4, 20, 14)))
    assert not lost.met and "equal in 1, below in 2 of 3; furthest below by 10.0 points: b at 4" in lost.told


@pytest.mark.parametrize(
    ("right", "met", "words"),
    [((20, 19), True, "97.5 of 100.0 right: 97.5%"), ((19, 18), False, "92.5%; 4.5 points short")],
)
def test_accuracy_is_kept_or_so_many_points_short(right, met, words):
    found = kept(table(row("foveal", 4, *right)), 4, 0.11)
    assert found.met is met and found.told.endswith(words)
    assert found.aim == "at 11% of the tokens at least 97% of full accuracy"


def test_times():
    assert faster({("foveal", 4): a_time(faster=3.2)}, 1024, 4).met
    assert faster({("foveal", 4): a_time(faster=2.0)}, 1024, 4).told == "2.00x with 4 tokens; 1.00 short"
    assert cheap({("foveal", 4): a_time(share=0.02)}, 1024, 4).met
    assert cheap({("foveal", 4): a_time(share=0.05)}, 1024, 4).told == "5.0% with 4 tokens; 2.0 points over"
    for aim in (faster, cheap):
        found = aim("too large a picture", 1024, None)
        assert found.met is None and found.told == "too large a picture" and "1,024 px" in found.aim


def test_kinds_begin_with_all_questions():
    assert table(row("foveal", 4, 1, 1)).kinds == [ALL, "a", "b"]
    assert table(row("foveal", 4, 1, 1), row("foveal", 8, 1, 1)).budgets == [8, 4]
