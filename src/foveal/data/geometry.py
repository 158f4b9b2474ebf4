"""The rules by which starter questions are decided, each with a margin, so that every answer can be seen."""

import math
from collections import Counter

from foveal.data.layout import TINY, Item, Layout

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
REGIONS: tuple[str, ...] = tuple(f"{row} {column}".strip() or "center" for row in ROWS for column in COLUMNS)
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
EDGE = 0.03  # how far from a line of the 3x3 grid a centre stays, as a share of the canvas
NEARER = 1.3  # how much farther away the second nearest must be


def cell(layout: Layout, item: Item) -> str:
    """The region of the 3x3 grid that holds the item's centre."""
    x, y = item.center
    return REGIONS[min(int(3 * y / layout.height), 2) * 3 + min(int(3 * x / layout.width), 2)]


def clear_cell(layout: Layout, item: Item) -> str | None:
    """The region of the item, or None where its centre is near a line of the grid."""
    x, y = item.center
    for share in (x / layout.width, y / layout.height):
        if min(abs(share - 1 / 3), abs(share - 2 / 3)) < EDGE:
            return None
    return cell(layout, item)


def share_in(layout: Layout, item: Item, region: str) -> tuple[float, float]:
    """How much of the item lies in a region, and how much of the region the item covers (0 to 1)."""
    row, column = divmod(REGIONS.index(region), 3)
    wide, high = layout.width / 3, layout.height / 3
    across = min(item.xyxy[2], (column + 1) * wide) - max(item.xyxy[0], column * wide)
    down = min(item.xyxy[3], (row + 1) * high) - max(item.xyxy[1], row * high)
    both = max(across, 0.0) * max(down, 0.0)
    return both / item.area, both / (wide * high)


def alone_in(layout: Layout, items: list[Item], region: str) -> Item | None:
    """The one item that is clearly in a region while no other is, or None."""
    inside = [i for i in items if clear_cell(layout, i) == region and share_in(layout, i, region)[0] > 0.5]
    if len(inside) != 1:
        return None
    for other in items:
        own, covered = share_in(layout, other, region)
        if other is not inside[0] and (own > 0.15 or covered > 0.1):
            return None
    return inside[0]


def gap(one: Item, other: Item) -> float:
    """Pixels between two boxes; 0 where they touch."""
    (a, b, c, d), (e, f, g, h) = one.xyxy, other.xyxy
    return math.hypot(max(e - c, a - g, 0), max(f - d, b - h, 0))


def distance(one: Item, other: Item) -> float:
    """Pixels between two centres."""
    return math.dist(one.center, other.center)


def singles(layout: Layout) -> list[Item]:
    """The drawings of which there is one."""
    amounts = Counter(i.name for i in layout.drawings)
    return [i for i in layout.drawings if amounts[i.name] == 1]


def nearest(layout: Layout, item: Item, others: list[Item]) -> Item | None:
    """The clearly nearest of the others, by edges and by centres, and near at all; or None."""
    if not others:
        return None
    first, *rest = sorted(others, key=lambda o: gap(item, o))
    near, far = gap(item, first), distance(item, first)
    if near > 0.25 * layout.short:
        return None
    for other in rest:
        if gap(item, other) < NEARER * near + 0.03 * layout.short or distance(item, other) < 1.1 * far:
            return None
    return first


def towards(layout: Layout, item: Item, direction: str) -> Item | None:
    """The drawing that is clearly the nearest in a direction and roughly level with the item; or None."""
    ahead, aside = DIRECTIONS[direction]
    found: list[tuple[float, float, Item]] = []
    for other in layout.drawings:
        x, y = other.center[0] - item.center[0], other.center[1] - item.center[1]
        along, across = x * ahead + y * aside, abs(x * aside) + abs(y * ahead)
        if other is not item and along > 0 and across < 1.5 * along:
            found.append((math.hypot(x, y), across / along, other))
    found.sort(key=lambda f: f[0])
    if not found or found[0][1] > 0.45 or (len(found) > 1 and found[1][0] < NEARER * found[0][0]):
        return None
    target = found[0][2]
    apart = (item.xyxy[0] - target.xyxy[2], target.xyxy[0] - item.xyxy[2]) if ahead else (
        item.xyxy[1] - target.xyxy[3], target.xyxy[1] - item.xyxy[3])  # fmt: skip
    return target if max(apart) >= 0 else None


def extreme(layout: Layout, *, largest: bool) -> Item | None:
    """The drawing that is clearly the largest, or the smallest, in area and in length; or None."""
    if len(layout.drawings) < 2:
        return None
    ordered = sorted(layout.drawings, key=lambda i: i.area, reverse=largest)
    big, small = (ordered[0], ordered[1]) if largest else (ordered[1], ordered[0])
    return ordered[0] if big.area >= 1.4 * small.area and big.long > small.long else None


def share(layout: Layout, items: list[Item]) -> float:
    """The part of the canvas that the items' boxes cover."""
    return sum(i.area for i in items) / (layout.width * layout.height)


def tiny(layout: Layout) -> list[Item]:
    """The drawings that cover less than 1% of the canvas."""
    return [i for i in layout.drawings if share(layout, [i]) < TINY]
