"""How answers are read and counted is what POPE's evaluate.py does; the figures are its own on these answers."""

import pytest

from foveal.core.errors import InputError
from foveal.evaluation.metrics.pope import FIGURES, figures, parts, says_yes
from tests.evaluation.asking import ask


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes, there is.", True),
        ("No, there is none.", False),
        ("There is not a dog", False),
        ("Yes. No doubt about it.", True),
        ("nothing", True),
        ("NO", True),
        ("", True),
        ("no,not", True),
    ],
)
def test_answers_are_read_as_the_official_code_does(answer, yes):
    assert says_yes(answer) is yes


def test_figures():
    truths = ["yes"] * 4 + ["no"] * 4
    said = ["yes", "yes", "Yes.", "no", "no", "yes", "no", "No."]
    found = figures(parts([ask(truth) for truth in truths], said).sum(0))
    assert dict(zip(FIGURES, found, strict=True)) == pytest.approx(
        {"accuracy": 0.75, "precision": 0.75, "recall": 0.75, "f1": 0.75, "yes_ratio": 0.5}
    )
    found = figures(parts([ask(truth) for truth in truths], ["yes"] * 7 + ["no"]).sum(0))
    assert found == pytest.approx([5 / 8, 4 / 7, 1.0, 8 / 11, 7 / 8])
    assert figures(parts([ask("no")], ["no"]).sum(0)) == pytest.approx([1, 0, 0, 0, 0])


def test_only_yes_and_no_are_counted():
    with pytest.raises(InputError, match="question 7 is answered 'red', and POPE counts yes and no"):
        parts([ask("red", id="7")], ["yes"])
