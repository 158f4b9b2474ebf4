"""A binary tree of rectangles over a grid of patches: what can be told without looking at the picture.

The tree depends on the grid alone: every rectangle is halved across its longer side, down to single patches. It is kept
level by level, level d in 2^d places, of which some hold nothing; a single patch passes down on the left.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveal.core.kept import kept
from foveal.core.types import Grid


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The rectangles of a grid of N patches (row0, col0, row1, col1, half open), all levels one after the other.

    `splits` says of each rectangle above the last level whether both its halves hold patches, `forced` whether they
    part cells of the floor. `place` is where each patch lies among all rectangles, level by level.
    """

    rectangles: Int[Tensor, "K 4"]
    splits: Bool[Tensor, " H"]
    forced: Bool[Tensor, " H"]
    place: Int[Tensor, "levels N"]

    @property
    def depth(self) -> int:
        """How many levels lie below the root."""
        return len(self.place) - 1


def tree_of(grid: Grid, floor: Grid = (1, 1), *, device: torch.device | str = "cpu") -> Tree:
    """The tree over a grid of patches, whose top parts a floor of so many rows and columns of cells."""
    return _grown(grid, floor, torch.device(device))


@kept(16)
def _grown(grid: Grid, floor: Grid, device: torch.device) -> Tree:
    size, parts = (torch.tensor(pair, device=device) for pair in (grid, floor))
    y, x = (torch.arange(side, device=device) for side in grid)
    patch = torch.cartesian_prod(y, x).view(-1, 2)
    area, cells = (torch.cat([pair * 0, pair])[None] for pair in (size, parts))
    place, rectangles, splits, forced, places = patch[:, 0] * 0, [area], [], [], [patch[:, 0] * 0]
    for level in range(depth_of(grid, floor)):
        parted = ((cells[:, 2:] - cells[:, :2]).prod(1) > 1)[:, None]
        sides = torch.where(parted, cells[:, 2:] - cells[:, :2], area[:, 2:] - area[:, :2])
        axis = (sides[:, 1:] >= sides[:, :1]).long()  # a square is parted into left and right
        cell = _middle(cells, axis)
        middle = torch.where(parted, cell * size[axis] // parts[axis], _middle(area, axis))
        place = 2 * place + (patch.gather(1, axis[place]) >= middle[place])[:, 0].long()
        area = _halved(area, axis, middle, middle)
        lower, upper = cells.gather(1, axis), cells.gather(1, axis + 2)
        cells = _halved(cells, axis, torch.where(parted, cell, upper), torch.where(parted, cell, lower))
        splits.append(((area[:, 2:] - area[:, :2]).prod(1).view(-1, 2) > 0).all(1))
        forced.append(parted[:, 0])
        rectangles.append(area)
        places.append(place + 2 ** (level + 1) - 1)
    none = torch.zeros(0, dtype=torch.bool, device=device)
    return Tree(
        rectangles=torch.cat(rectangles),
        splits=torch.cat([none, *splits]),
        forced=torch.cat([none, *forced]),
        place=torch.stack(places),
    )


def depth_of(grid: Grid, floor: Grid = (1, 1)) -> int:
    """How often the grid is halved at most until every rectangle is one patch."""
    return sum(_halvings(cells) + _halvings(-(-side // cells)) for side, cells in zip(grid, floor, strict=True))


def _halvings(side: int) -> int:
    return (side - 1).bit_length()


def _middle(boxes: Int[Tensor, "n 4"], axis: Int[Tensor, "n 1"]) -> Int[Tensor, "n 1"]:
    return (boxes.gather(1, axis) + boxes.gather(1, axis + 2) + 1) // 2


def _halved(
    boxes: Int[Tensor, "n 4"], axis: Int[Tensor, "n 1"], end: Int[Tensor, "n 1"], begin: Int[Tensor, "n 1"]
) -> Int[Tensor, "m 4"]:
    """Both halves of each box in turn: the first up to `end` along the axis, the second from `begin` on."""
    return torch.stack([boxes.scatter(1, axis + 2, end), boxes.scatter(1, axis, begin)], dim=1).flatten(0, 1)
