"""Exact match: the share of answers that equal one of the true ones after both are normalised (`score.normalise`)."""

from collections.abc import Sequence

import numpy as np

from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.questions import Question
from foveal.evaluation.score import is_right

FIGURES = ("exact_match",)
figures = mean


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """1 for each right answer."""
    return mean_parts([is_right(one, said) for one, said in zip(asked, answers, strict=True)])
