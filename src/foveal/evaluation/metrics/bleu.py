"""BLEU-1 to 4 of captions over the whole set, as COCO's tools count it: nearest reference length (Papineni 2002)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from foveal.evaluation.metrics._words import ngrams, words
from foveal.evaluation.questions import Question

CAPTIONS = True
FIGURES = ("bleu_4", "bleu_3", "bleu_2", "bleu_1")
LONGEST = 4
SMALL, TINY = 1e-9, 1e-15  # the official code adds these below and above


def counted(said: str, golds: Sequence[str]) -> list[int]:
    """What a caption adds: runs of 1 to 4 words that a true one has, all its runs, its length, the nearest one."""
    mine, theirs = words(said), [words(gold) for gold in golds]
    most: Counter[tuple[str, ...]] = Counter()
    for gold in theirs:
        most |= Counter(ngrams(gold))
    shared = Counter(ngrams(mine)) & most
    right = [sum(count for run, count in shared.items() if len(run) == n) for n in range(1, LONGEST + 1)]
    made = [max(0, len(mine) - n) for n in range(LONGEST)]
    nearest = min((abs(len(gold) - len(mine)), len(gold)) for gold in theirs)[1]
    return [*right, *made, len(mine), nearest]


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The counts of each caption `[Q 10]`."""
    return np.array([counted(said, one.golds) for one, said in zip(asked, answers, strict=True)], float)


def figures(sums: np.ndarray) -> np.ndarray:
    """BLEU of 4, 3, 2 and 1 words `[... 4]`, with its penalty for what is too short."""
    right, made, said, true = sums[..., :LONGEST], sums[..., LONGEST:-2], sums[..., -2:-1], sums[..., -1:]
    logs = np.cumsum(np.log((right + TINY) / (made + SMALL)), axis=-1) / np.arange(1, LONGEST + 1)
    ratio = (said + TINY) / (true + SMALL)
    return (np.exp(logs) * np.exp(np.minimum(0.0, 1 - 1 / ratio)))[..., ::-1]
