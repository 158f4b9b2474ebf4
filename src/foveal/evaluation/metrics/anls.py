"""ANLS: how alike an answer is to the nearest true one, letter by letter; under one half is nothing (1907.00490)."""

from collections.abc import Sequence

import numpy as np

from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.questions import Question

FIGURES = ("anls",)
THRESHOLD = 0.5
figures = mean


def distance(first: str, second: str) -> int:
    """The fewest letters to insert, remove or replace (Levenshtein, 1966)."""
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, 1):
        before, row[0] = row[0], place
        for at, other in enumerate(second, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (letter != other))
    return row[-1]


def similarity(answer: str, golds: Sequence[str]) -> float:
    """The official similarity from 0 to 1, best over the true answers.

    Case and runs of spaces do not count as letters that differ, yet lengths are those of the texts as given: so does
    the official code count.
    """
    best = 1 - min(_apart(answer, gold) for gold in golds)
    return best if best >= THRESHOLD else 0.0


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The similarity of each answer."""
    return mean_parts([similarity(said, one.golds) for one, said in zip(asked, answers, strict=True)])


def _apart(answer: str, gold: str) -> float:
    longest = max(len(gold.upper()), len(answer.upper()))  # sharp s counts twice there
    return distance(_plain(answer), _plain(gold)) / longest if longest else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
