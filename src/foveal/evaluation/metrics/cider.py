"""CIDEr-D of captions: rare runs of words weigh most, by how many images' captions have them (1411.5726).

Its figures depend on the whole set that is scored. Images, not the weights of words, are drawn for its interval.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.metrics._words import ngrams, words
from foveal.evaluation.questions import Question

CAPTIONS = True
FIGURES = ("cider",)
LONGEST, SIGMA, SCALE = 4, 6.0, 10.0
figures = mean
Run = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Vector:
    """The weights of a caption's runs, their norm for each length, and its length as the official code takes it."""

    weights: Mapping[Run, float]
    norms: np.ndarray
    length: int


def scores(said: Sequence[str], golds: Sequence[Sequence[str]]) -> list[float]:
    """The official score of each image's caption, from 0 to 10, by the true captions of all images."""
    true = [[Counter(ngrams(words(gold))) for gold in each] for each in golds]
    images = Counter(run for each in true for run in set().union(*each))
    rare = {run: math.log(len(said)) - math.log(count) for run, count in images.items()}
    unseen = math.log(len(said)) if said else 0.0
    found = []
    for caption, each in zip(said, true, strict=True):
        mine = _vector(Counter(ngrams(words(caption))), rare, unseen)
        alike = [_alike(mine, _vector(gold, rare, unseen)) for gold in each]
        found.append(SCALE * sum(alike) / len(alike))
    return found


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The score of each caption."""
    return mean_parts(scores(answers, [one.golds for one in asked]))


def _vector(counts: Mapping[Run, int], rare: Mapping[Run, float], unseen: float) -> _Vector:
    weights = {run: count * rare.get(run, unseen) for run, count in counts.items()}
    squares = np.zeros(LONGEST)
    for run, weight in weights.items():
        squares[len(run) - 1] += weight**2
    return _Vector(weights=weights, norms=np.sqrt(squares), length=sum(n for run, n in counts.items() if len(run) == 2))


def _alike(mine: _Vector, gold: _Vector) -> float:
    """The mean over lengths of clipped cosines, less for captions of other lengths."""
    dots = np.zeros(LONGEST)
    for run, weight in mine.weights.items():
        other = gold.weights.get(run, 0.0)
        dots[len(run) - 1] += min(weight, other) * other
    norms = mine.norms * gold.norms
    cosines = np.divide(dots, norms, out=dots, where=norms > 0)
    return float(cosines.mean() * math.exp(-((mine.length - gold.length) ** 2) / (2 * SIGMA**2)))
