"""ROUGE-L of captions as COCO's tools count it: words in the same order, recall weighing 1.2 squared (Lin, 2004)."""

from collections.abc import Sequence

import numpy as np

from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.metrics._words import words
from foveal.evaluation.questions import Question

CAPTIONS = True
FIGURES = ("rouge_l",)
BETA = 1.2
figures = mean


def common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for at, other in enumerate(second, 1):
            before, row[at] = row[at], before + 1 if word == other else max(row[at], row[at - 1])
    return row[-1]


def agreement(said: str, golds: Sequence[str]) -> float:
    """From 0 to 1: best precision and best recall over the true captions, each by itself."""
    mine, theirs = words(said), [words(gold) for gold in golds]
    shared = [common(mine, gold) for gold in theirs]
    precision = max(shared) / max(1, len(mine))
    recall = max(count / max(1, len(gold)) for count, gold in zip(shared, theirs, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision and recall else 0.0


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The agreement of each caption."""
    return mean_parts([agreement(said, one.golds) for one, said in zip(asked, answers, strict=True)])
