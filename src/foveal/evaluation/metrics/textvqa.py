"""TextVQA's accuracy: that of VQA, but all answers are normalised, however alike people wrote them (1904.08920).

What TextVQA's evaluators strip before, commas and question marks, goes here too.
"""

from collections.abc import Sequence

import numpy as np

from foveal.evaluation.metrics import vqa
from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.questions import Question

FIGURES = vqa.FIGURES
figures = mean


def normalise(text: str) -> str:
    """An answer in the form in which TextVQA's evaluators compare it."""
    return vqa.normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def accuracy(answer: str, golds: Sequence[str]) -> float:
    """The accuracy of an answer, from 0 to 1, by what people answered."""
    return vqa.agreed(normalise(answer), [normalise(gold) for gold in golds])


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The accuracy of each answer. Raises InputError for a question that fewer than four people have answered."""
    return mean_parts([accuracy(said, golds) for golds, said in zip(vqa.answered(asked), answers, strict=True)])
