import pytest

from foveal.evaluation.spending import Control, Spent, ahead, changed, lost, plain, scores
from tests.evaluation.asking import ask

ASKED = [ask("yes", scene=str(number // 2), kind="ab"[number % 2], id=str(number)) for number in range(8)]
RIGHT, WRONG = ("yes",) * 8, ("no",) * 8
HALF = ("yes", "no") * 4
WHOLE = Spent(strategy="all", budget=None, answers=(RIGHT,), divergence=0.0)


def test_draws_are_averaged():
    row = Spent(strategy="random", budget=4, answers=(RIGHT, WRONG, HALF), divergence=0.5)
    found = scores(ASKED, row)
    assert found.exact_match.value == pytest.approx(0.5)
    assert found.kinds["a"].value == pytest.approx(2 / 3) and found.kinds["b"].value == pytest.approx(1 / 3)
    assert changed(row, WHOLE) == pytest.approx(0.5)
    told = plain(ASKED, row, WHOLE)
    assert (told["draws"], told["divergence"], told["flips"]) == (3, 0.5, 0.5)
    low, high = told["intervals"]["a"]
    assert low < told["kinds"]["a"] < high


def test_leads_know_kinds():
    lead = ahead(
        ASKED, Spent(strategy="foveal", budget=4, answers=(HALF,)), Spent(strategy="x", budget=4, answers=(WRONG,))
    )
    assert lead.kinds["a"].value == 1 and lead.kinds["b"].value == 0
    assert lead.exact_match.value == 0.5


def test_controls_are_compared_on_their_own_questions():
    row = Spent(strategy="foveal", budget=4, answers=(HALF,))
    fallen = lost(ASKED, row, Control(places=(0, 1, 2), answers=("no", "no", "no")))
    assert fallen is not None and fallen.exact_match.value == pytest.approx(2 / 3) and fallen.exact_match.count == 3
    assert lost(ASKED, row, Control(places=(), answers=())) is None
    told = plain(
        ASKED,
        Spent(
            strategy="foveal",
            budget=4,
            answers=(HALF,),
            controls={"empty": Control(places=(1,), answers=("yes",)), "shuffled": Control(places=(), answers=())},
        ),
        WHOLE,
    )
    assert told["controls"]["empty"] == {"questions": 1, "lost": -1.0, "interval": [-1.0, -1.0]}
    assert told["controls"]["shuffled"] == {"questions": 0, "lost": None}


def test_what_cannot_be_says_why():
    row = Spent(strategy="scope", budget=4, refused="no attention")
    assert plain(ASKED, row, WHOLE) == {"strategy": "scope", "budget": 4, "refused": "no attention"}
