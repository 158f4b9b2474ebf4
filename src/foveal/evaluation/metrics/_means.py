"""Metrics that are the mean of a value of each question."""

from collections.abc import Sequence

import numpy as np


def mean_parts(values: Sequence[float | bool]) -> np.ndarray:
    """What each question adds to a mean `[Q 2]`: its value, and one."""
    return np.stack([np.asarray(values, float), np.ones(len(values))], axis=1)


def mean(sums: np.ndarray) -> np.ndarray:
    """The mean `[... 1]` of summed parts `[... 2]`."""
    return share(sums[..., :1], sums[..., 1:])


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, and 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)
