"""Outlines of things as polygons: how large they are, and the fewest points that still show them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 3  # points of a polygon

Polygon = Float[Tensor, "_ 2"]  # each of its own length


def area(polygon: Polygon) -> float:
    """What a polygon encloses (x y in any unit), whichever way it turns."""
    x, y = polygon.double().unbind(-1)
    return 0.5 * abs(float((x * y.roll(-1) - x.roll(-1) * y).sum()))


def clockwise(polygon: Polygon) -> Polygon:
    """The same polygon from its highest point on (of several the leftmost), clockwise on a screen."""
    x, y = polygon.double().unbind(-1)
    turned = polygon if float((x * y.roll(-1) - x.roll(-1) * y).sum()) >= 0 else polygon.flip(0)
    highest = min(range(len(turned)), key=lambda place: (float(turned[place, 1]), float(turned[place, 0])))
    return turned.roll(-highest, 0)


def simplified(polygons: Sequence[Polygon], most: int) -> list[Polygon]:
    """Polygons of at most `most` points in all, each gap between two counted as one; the largest come first.

    Those that there is no room for are left out, the smallest first; then the point that shows least, as the area of
    the triangle with its neighbours, goes until the rest fits (Visvalingam and Whyatt 1993). A polygon without area is
    left out.
    """
    kept = sorted((one for one in polygons if len(one) >= LEAST and area(one) > 0), key=area, reverse=True)
    kept = kept[: max(0, (most + 1) // (LEAST + 1))]
    over = sum(map(len, kept)) + len(kept) - 1 - most
    shown = [_triangles(one) for one in kept]
    for _ in range(over):
        least = [float(some.min()) if len(some) > LEAST else float("inf") for some in shown]
        which = least.index(min(least))
        place = int(shown[which].argmin())
        kept[which] = torch.cat([kept[which][:place], kept[which][place + 1 :]])
        shown[which] = _triangles(kept[which])
    return kept


def _triangles(polygon: Polygon) -> Float[Tensor, " N"]:
    """The area of each point's triangle with its neighbours."""
    before, after = polygon.roll(1, 0) - polygon, polygon.roll(-1, 0) - polygon
    return (before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]).abs() / 2
