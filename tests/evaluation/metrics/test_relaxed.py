"""The answers are those of relaxed_correctness as published with Pix2Struct and used by lmms-eval 0.7.3."""

import pytest

from foveal.evaluation.metrics.relaxed import correct, figures, parts
from tests.evaluation.asking import ask


@pytest.mark.parametrize(
    ("answer", "gold", "official"),
    [
        ("10.5", "10", True),
        ("10.51", "10", False),
        ("0.12", "12%", True),
        ("12", "12%", False),
        ("-3", "-3.1", True),
        ("Red", "red", True),
        ("red.", "red", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("1e2", "100", True),
        ("1,000", "1000", False),
        ("2014", "2021", True),
    ],
)
def test_correct_is_the_official_one(answer, gold, official):
    assert correct(answer, gold) is official


def test_any_true_answer_will_do():
    asked = [ask("12%", answers=("12%", "12")), ask("red")]
    assert figures(parts(asked, ["12 ", "blue"]).sum(0)) == pytest.approx([0.5])
