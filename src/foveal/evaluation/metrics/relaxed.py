"""Relaxed accuracy: numbers may be 5% off, anything else must be as it is written but for case (2203.10244)."""

from collections.abc import Sequence

import numpy as np

from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.questions import Question

FIGURES = ("relaxed_accuracy",)
OFF = 0.05
figures = mean


def correct(answer: str, gold: str) -> bool:
    """Whether an answer is right; "12%" is the number 0.12, and a true 0 is compared as text."""
    said, true = number(answer), number(gold)
    if said is not None and true:
        return abs(said - true) / abs(true) <= OFF
    return answer.lower() == gold.lower()


def number(text: str) -> float | None:
    """The number that a text is, percent as hundredths; None where it is none."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """1 for each answer that is right by one of the true ones."""
    return mean_parts(
        [
            any(correct(said.strip(), gold.strip()) for gold in one.golds)
            for one, said in zip(asked, answers, strict=True)
        ]
    )
