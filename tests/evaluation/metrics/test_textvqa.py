"""The figures are those of MMF's EvalAIAnswerProcessor and accuracy, as lmms-eval has them, on the same answers."""

import pytest

from foveal.core.errors import InputError
from foveal.evaluation.metrics.textvqa import accuracy, figures, normalise, parts
from tests.evaluation.asking import ask


@pytest.mark.parametrize(
    ("answer", "golds", "official"),
    [
        ("Stop.", ["STOP"] * 10, 1.0),  # all ten wrote the same, and it is normalised all the same
        ("the dog", ["dog"] * 10, 1.0),
        ("10", ["ten"] * 10, 1.0),
        ("nokia", ["Nokia"] * 2 + ["nokia 3310"] * 8, 0.6),
        ("yes", ["no"] * 10, 0.0),
    ],
)
def test_accuracy_is_the_official_one(answer, golds, official):
    assert accuracy(answer, golds) == pytest.approx(official)


@pytest.mark.parametrize(
    ("text", "official"),
    [
        ("1,000 - 2", "1000 2"),
        ("a, b-c", "b c"),  # the comma is gone before signs are looked for
        ("what?yes", "whatyes"),
        ("dog's bowl", "dog 's bowl"),
        ("Don't", "don't"),
        ("None of\tthe U.S.", "0 of us"),
    ],
)
def test_normalisation_has_the_official_oddities(text, official):
    assert normalise(text) == official


def test_the_figure_is_a_mean_over_questions_which_needs_people():
    asked = [ask("STOP", answers=("STOP",) * 10), ask("no", answers=("no",) * 10)]
    assert figures(parts(asked, ["stop", "yes"]).sum(0) / 2) == pytest.approx([0.5])
    with pytest.raises(InputError, match=r"question q has 1 answers"):
        parts([ask("yes", id="q")], ["yes"])
