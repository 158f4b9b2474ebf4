"""POPE: does a model see things that are not there; yes or no, with "yes" as what is to be found (2305.10355)."""

from collections.abc import Sequence

import numpy as np

from foveal.core.errors import InputError
from foveal.evaluation.metrics._means import share
from foveal.evaluation.questions import Question

FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
NO = ("No", "no", "not")


def says_yes(answer: str) -> bool:
    """How the official code reads an answer: yes, unless its first sentence holds a no or a not."""
    return not set(answer.partition(".")[0].replace(",", "").split(" ")) & set(NO)


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """A mark in one of four columns: rightly yes, wrongly yes, rightly no, wrongly no `[Q 4]`.

    Raises InputError for a question whose true answer is neither yes nor no.
    """
    rows = []
    for one, said in zip(asked, answers, strict=True):
        truth = one.truth.strip().lower()
        if truth not in ("yes", "no"):
            raise InputError(
                f"question {one.id} is answered {one.truth!r}, and POPE counts yes and no; use --metric exact_match"
            )
        yes, true = says_yes(said), truth == "yes"
        rows.append((yes and true, yes and not true, not yes and not true, not yes and true))
    return np.array(rows, float)


def figures(sums: np.ndarray) -> np.ndarray:
    """Accuracy, precision, recall, F1 and the share of answers that are yes `[... 5]`."""
    hit, wrong, rejected, missed = np.split(sums, 4, axis=-1)
    asked = hit + wrong + rejected + missed
    return np.concatenate(
        [
            share(hit + rejected, asked),
            share(hit, hit + wrong),
            share(hit, hit + missed),
            share(2 * hit, 2 * hit + wrong + missed),
            share(hit + wrong, asked),
        ],
        axis=-1,
    )
