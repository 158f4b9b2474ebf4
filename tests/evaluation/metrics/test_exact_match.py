import pytest

from foveal.evaluation.metrics.exact_match import figures, parts
from tests.evaluation.asking import ask


def test_any_true_answer_will_do():
    asked = [ask("fox", answers=("fox", "red fox")), ask("3"), ask("owl")]
    assert figures(parts(asked, ["The red fox.", "three", ""]).sum(0)) == pytest.approx([2 / 3])
