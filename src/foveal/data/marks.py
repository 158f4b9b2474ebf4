"""What a box may hold besides its corners, as COCO has it: a thing's outline as polygons, named points, its area."""

import math
from collections.abc import Sequence
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Keypoint

Size = tuple[int | float, int | float]


def polygons(given: Any, size: Size | None, *, slack: float, where: str) -> tuple[tuple[float, ...], ...]:
    """`segmentation`: lists of x y x y ... in pixels. Raises InputError for what is none, or leaves the image."""
    if not isinstance(given, list) or not all(isinstance(one, list) for one in given):
        raise InputError(f"{where} has a segmentation that is no list of polygons; give [[x, y, x, y, x, y, ...], ...]")
    for one in given:
        if len(one) < 6 or len(one) % 2 or not all(_number(value) for value in one):
            raise InputError(f"{where} has a polygon of {len(one)} numbers; give x and y of three points or more")
        _within(one[0::2], one[1::2], size, slack, f"{where} has a polygon that")
    return tuple(tuple(float(value) for value in one) for one in given)


def keypoints(given: Any, size: Size | None, *, slack: float, where: str) -> tuple[Keypoint, ...]:
    """`keypoints`: x, y and v of each in one list; v is 0 not known, 1 hidden, 2 seen.

    Raises InputError for what is none, and for a known point that leaves the image.
    """
    if not isinstance(given, list) or len(given) % 3 or not all(_number(value) for value in given):
        raise InputError(f"{where} has keypoints that are no list of x, y, v; give three numbers a point")
    if not set(given[2::3]) <= {0, 1, 2}:
        raise InputError(f"{where} has a keypoint with v {given[2::3]}; give 0 (not known), 1 (hidden) or 2 (seen)")
    found = tuple((float(x), float(y), int(v)) for x, y, v in zip(given[0::3], given[1::3], given[2::3], strict=True))
    known = [(x, y) for x, y, v in found if v]
    _within([x for x, _ in known], [y for _, y in known], size, slack, f"{where} has a keypoint that")
    return found


def area(given: Any, *, where: str) -> float | None:
    """`area` in pixels, None where it is not given. Raises InputError for what is none."""
    if given is None:
        return None
    if isinstance(given, bool) or not _number(given) or given < 0:
        raise InputError(f"{where} has the area {given!r}; give pixels, or leave it out")
    return float(given)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _within(xs: Sequence[float | int], ys: Sequence[float | int], size: Size | None, slack: float, what: str) -> None:
    if size and xs and not (
        min(*xs, *ys) >= -slack and max(xs) <= size[0] + slack and max(ys) <= size[1] + slack
    ):  # fmt: skip
        raise InputError(f"{what} leaves its image of {size[0]} x {size[1]} pixels; mend it")
