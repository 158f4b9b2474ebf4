"""Outlines and keypoints of the drawings in starter scenes, as their own ink has them.

Drawings in a scene do not overlap, and are scaled but never turned: what is known of a drawing in its box is known of
every copy. The outline is that of the ink, holes filled, in at most 48 points: for half of the drawings it overlaps
the ink by 0.97 or more (intersection over union), least where there are holes (0.45 for the ring). The five keypoints
are where the ink reaches farthest to the left, top, right and bottom, and the middle of all ink (which may lie beside
it).
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from foveal.core.example import Box, Example
from foveal.data.drawings import CLDR, rendered
from foveal.data.generate import noted
from foveal.preprocess.outlines import area, clockwise, simplified

POINTS = ("left", "top", "right", "bottom", "middle")
MOST, SPECK = 48, 0.01  # points of an outline; the share of all ink below which a part is left out
_PIXELS = 160  # at which a drawing is looked at

Point = tuple[float, float]
Corner = tuple[int, int]  # of a pixel: x, y


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Polygons, the largest first, and keypoints, as fractions of a drawing's box."""

    polygons: tuple[tuple[Point, ...], ...]
    points: tuple[Point, ...]


@functools.cache
def shape(name: str) -> Shape:
    """The shape of a drawing by its name; InputError where the drawings are not installed."""
    ink = np.asarray(rendered(name, _PIXELS).getchannel("A")) >= 128
    height, width = ink.shape
    loops = [torch.tensor(loop, dtype=torch.float64) for loop in outlines(ink)]
    kept = [loop for loop in loops if area(loop) >= SPECK * ink.sum()]
    across = torch.tensor([width, height], dtype=torch.float64)
    polygons = [(clockwise(one) / across).tolist() for one in simplified(kept, MOST)]
    points = [(x / width, y / height) for x, y in _farthest(ink)]
    return Shape(polygons=tuple(tuple((x, y) for x, y in one) for one in polygons), points=tuple(points))


def outlines(ink: np.ndarray) -> Iterator[list[Corner]]:
    """The outer borders of the connected parts of a picture of booleans, along the edges of its pixels.

    Pixels that touch at a corner alone are not connected; holes are passed over.
    """
    padded = np.pad(ink, 1)
    following: dict[Corner, list[Corner]] = {}
    # Each side of a pixel that borders on none, so that the pixel lies on its right hand.
    for (down, right), begin, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        beside = np.roll(padded, (-down, -right), (0, 1))[1:-1, 1:-1]
        for y, x in np.argwhere(ink & ~beside).tolist():
            following.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))
    while following:
        loop = _loop(following)
        if sum(x * v - u * y for (x, y), (u, v) in zip(loop, [*loop[1:], loop[0]], strict=True)) > 0:
            yield loop


def _loop(following: dict[Corner, list[Corner]]) -> list[Corner]:
    """One closed walk, taken out of the steps that are left; where two ways part it turns right."""
    start = place = min(following, key=lambda corner: (corner[1], corner[0]))  # where no two ways part
    loop, before = [], (0, 0)
    while True:
        ways = following[place]
        turns = [before[0] * (y - place[1]) - before[1] * (x - place[0]) for x, y in ways]
        step = ways.pop(turns.index(max(turns)))
        if not ways:
            del following[place]
        loop.append(place)
        place, before = step, (step[0] - place[0], step[1] - place[1])
        if place == start:
            return loop


def _farthest(ink: np.ndarray) -> list[Point]:
    """Where the ink reaches farthest each way (the middle of the run that does), and its middle."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    height, width = int(rows[-1]) + 1, int(columns[-1]) + 1

    def middle(line: np.ndarray) -> float:
        there = np.flatnonzero(line)
        return float(there[0] + there[-1] + 1) / 2

    y, x = np.nonzero(ink)
    return [
        (float(columns[0]), middle(ink[:, columns[0]])),
        (middle(ink[rows[0]]), float(rows[0])),
        (float(width), middle(ink[:, width - 1])),
        (middle(ink[height - 1]), float(height)),
        (float(x.mean()) + 0.5, float(y.mean()) + 0.5),
    ]


def drawn(data: Path) -> bool:
    """Whether a data set, by its directory or a file in it, is one of starter scenes."""
    return noted(data).get("made_by") == "foveal data scenes"


def with_shapes(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples of starter scenes, their drawings with outlines and keypoints; rendered words have none."""
    last: tuple[tuple[Box, ...], tuple[Box, ...]] = ((), ())  # what follows each other on one image shares its boxes
    for example in examples:
        if example.boxes is not last[0]:
            words = set(example.meta.get("words") or ())
            last = (
                example.boxes,
                tuple(
                    box if place in words or box.label not in CLDR else _shaped(box)
                    for place, box in enumerate(example.boxes)
                ),
            )
        yield replace(example, boxes=last[1], meta={**example.meta, "keypoints": POINTS})


def _shaped(box: Box) -> Box:
    known, (left, top, right, bottom) = shape(box.label), box.xyxy

    def at(point: Point) -> Point:
        return round(left + point[0] * (right - left), 2), round(top + point[1] * (bottom - top), 2)

    polygons = tuple(tuple(value for point in one for value in at(point)) for one in known.polygons)
    return replace(box, segmentation=polygons, keypoints=tuple((*at(point), 2) for point in known.points))
