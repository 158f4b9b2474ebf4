"""The size at which an image of any shape fills a number of patches best (SigLIP 2, 2502.14786)."""

import math

from foveal.core.types import Grid

_SMALLEST, _LARGEST = 1e-6, 100.0  # scales that are tried
_NEAR = 1e-5  # how near each other the last two are


def filling(size: Grid, *, multiple: int, most: int) -> Grid:
    """The size, its sides rounded up to multiples, at the largest scale that has at most so many of them.

    The scale is found by halving, as there: of two that are nearer than that, the smaller one is taken.
    """
    low, high = _SMALLEST, _LARGEST
    while high - low >= _NEAR:
        middle = (low + high) / 2
        if math.prod(_cells(size, middle, multiple)) <= most:
            low = middle
        else:
            high = middle
    rows, columns = _cells(size, low, multiple)
    return rows * multiple, columns * multiple


def _cells(size: Grid, scale: float, multiple: int) -> Grid:
    rows, columns = (max(1, math.ceil(side * scale / multiple)) for side in size)
    return rows, columns
