"""The figures are those of the official code, PythonEvaluationTools/vqaEvaluation/vqaEval.py, on the same answers."""

import pytest

from foveal.core.errors import InputError
from foveal.evaluation.metrics.vqa import accuracy, figures, normalise, parts
from tests.evaluation.asking import ask


@pytest.mark.parametrize(
    ("answer", "golds", "official"),
    [
        ("two dogs", ["2 dogs"] * 6 + ["dogs"] * 4, 1.0),
        ("2 dogs", ["Two dogs!"] * 2 + ["dog"] * 8, 0.6),
        ("dont know", ["don't know"] * 3 + ["no"] * 7, 0.9),
        ("Yes", ["yes"] * 10, 0.0),  # all ten wrote the same: compared as written
        ("yes", ["yes"] * 9 + ["no"], 1.0),
        ("no", ["yes"] * 9 + ["no"], 0.3),
        ("black white", ["black/white"] * 4 + ["gray"] * 6, 1.0),
        ("blackwhite", ["black / white"] * 4 + ["gray"] * 6, 0.0),
        ("1000", ["1,000"] * 4 + ["1000s"] * 6, 1.0),
        ("us", ["U.S."] * 4 + ["usa"] * 6, 1.0),
        ("the a", ["red", "blue"] * 5, 0.0),
        ("none", ["0"] * 4 + ["zero things"] * 6, 1.0),
        ("3.5", ["3.5."] * 4 + ["4"] * 6, 1.0),
    ],
)
def test_accuracy_is_the_official_one(answer, golds, official):
    assert accuracy(answer, golds) == pytest.approx(official)


@pytest.mark.parametrize(
    ("text", "official"),
    [
        ("Id've", "id've"),  # the official table has it in capitals, after lower case
        ("somebody'd", "somebodyd"),
        ("couldn'tve been", "couldn't've been"),
        ("yall'd've\tthe\nten", "y'all'd've 10"),
        ("hes hed", "he's he'd"),
        ("a man, the dog", "man dog"),
        ("a-b", "b"),
    ],
)
def test_normalisation_has_the_official_oddities(text, official):
    assert normalise(text) == official


def test_answers_are_normalised_before_they_are_handed_in():
    asked = [ask("yes", answers=("yes",) * 10), ask("no", answers=("no",) * 9 + ("yes",))]
    assert figures(parts(asked, ["Yes.", "The no!"]).sum(0)) == pytest.approx([1.0])


def test_what_all_wrote_alike_is_right_as_they_wrote_it():
    asked = [ask("STOP", answers=("STOP",) * 10), ask("the dog", answers=("the dog",) * 10)]
    assert parts(asked, ["STOP", " the dog\n"]).sum(0)[0] == 2


def test_agreement_needs_people():
    with pytest.raises(InputError, match=r"question q has 1 answers, .* give 'answers' of 4 or more"):
        parts([ask("yes", id="q")], ["yes"])
