"""Image downsampling: the encoder itself sees a smaller picture, at less cost; it beats many who prune.

Before the encoder; needs pictures, not features of them, and an encoder of any size of picture. Of an image in tiles
whose tokens are more than the budget it takes what these show together for one picture, without the view and without
what fills the tiles up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.interfaces import Plan
from foveal.core.types import Cut, Grid, Patches, Pixels
from foveal.layers.field import Shown, shown
from foveal.layers.mosaic import spans
from foveal.relevance.allocation import evenly
from foveal.relevance.spending import Among, Choosing, Shares, planned


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` tokens an image."""

    budget: int = 64


class Downsample(Choosing):
    """The smallest picture of its shape whose tokens are the budget or more; what is over is pooled evenly."""

    name = "downsample"

    def sizes(self, sizes: Sequence[Grid | Cut], plan: Plan) -> list[Grid | Cut]:
        """How large each picture is encoded; raises InputError for videos, and for an encoder of one size alone.

        Images in tiles stay so within the budget, and others beside these are `plain`.
        """
        return _beside(self._sizes(sizes, plan))

    def before(self, pixels: Pixels | Patches, plan: Plan) -> Pixels:
        """The pictures at those sizes, antialiased; takes the errors of `sizes`."""
        if isinstance(pixels, Patches):
            raise InputError("strategy 'downsample' makes pictures smaller, and these come in patches; take another")
        height, width = pixels.values.shape[-2:]
        own = pixels.sizes or ((height, width),) * len(pixels.values)
        tiles = [one[:, :high, :wide] for one, (high, wide) in zip(pixels.values, own, strict=True)]
        then = self._sizes(pixels.cuts or own, plan)
        if pixels.cuts is None:
            return replace(_filled(_made(tiles, then), then), frames=pixels.frames)
        each = [tiles[begin:end] for begin, end in spans(pixels.cuts)]
        less = [i for i, one in enumerate(then) if not isinstance(one, Cut)]
        joined = [_joined(each[i], pixels.cuts[i], _shown(pixels.cuts[i], plan)) for i in less]
        for i, one in zip(less, _made(joined, [then[i] for i in less]), strict=True):
            each[i] = [one]
        return _filled([tile for some in each for tile in some], then)

    def choose(self, among: Among) -> Shares:
        """Pool what is over."""
        made = evenly(among.features, grid=among.grid, budget=self.budget)
        return made.assignment, torch.ones_like(among.features[..., 0])

    def _sizes(self, sizes: Sequence[Grid | Cut], plan: Plan) -> list[Grid | Cut]:
        known = {one: self._size(one, plan) for one in dict.fromkeys(sizes)}
        return [known[one] for one in sizes]

    def _size(self, one: Grid | Cut, plan: Plan) -> Grid | Cut:
        if not isinstance(one, Cut):
            return self._smaller(one, plan)
        if one.frames:
            raise InputError(
                "strategy 'downsample' makes pictures smaller, and these are frames of a video; take another"
            )
        if plan([one]).counts[0] <= self.budget:
            return one
        rows, columns = _shown(one, plan)
        return self._smaller((rows.stop - rows.start, columns.stop - columns.start), plan)

    def _smaller(self, size: Grid, plan: Plan) -> Grid:
        layout = plan([size])
        grid = layout.grids[0]
        if layout.counts[0] <= self.budget:
            return size
        if grid is None:
            planned(layout, self.budget, name="downsample")  # says what is wrong
            return size
        fewer = smaller(grid, self.budget)
        found = fewer[0] * (size[0] // grid[0]), fewer[1] * (size[1] // grid[1])
        if plan([found]).grids[0] != fewer:
            raise InputError(
                f"strategy 'downsample' wants {fewer[0]} x {fewer[1]} tokens, and pictures of {found[0]} x {found[1]} "
                f"pixels bring {plan([found]).grids[0]}; take another strategy"
            )
        return found


def _shown(cut: Cut, plan: Plan) -> Shown:
    """The rows and columns of pixels, in whole cells, that an image fills of its tiles side by side."""
    cells = plan([cut.tile]).grids[0]
    if cut.grid == (0, 0) or cells is None:
        return slice(0, cut.tile[0] * max(cut.grid[0], 1)), slice(0, cut.tile[1] * max(cut.grid[1], 1))
    rows, columns = (
        slice(part.start * (side // count), part.stop * (side // count))
        for part, side, count in zip(shown(cut, cells), cut.tile, cells, strict=True)
    )
    return rows, columns


def _joined(tiles: Sequence[Tensor], cut: Cut, part: Shown) -> Float[Tensor, "C H W"]:
    """A part of an image out of its tiles."""
    (high, wide), own = cut.tile, [tile for tile, spot in zip(tiles, cut.spots, strict=True) if spot[0] >= 0]
    if not own:
        return tiles[0]
    rows = own[0].new_zeros(len(own[0]), cut.grid[0] * high, cut.grid[1] * wide)
    for tile, (row, column) in zip(own, [spot for spot in cut.spots if spot[0] >= 0], strict=True):
        rows[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = tile
    return rows[:, part[0], part[1]]


def _made(pictures: Sequence[Tensor], sizes: Sequence[Any]) -> list[Tensor]:
    """Pictures `[C H W]` at these sizes (height, width), those that are alike together."""
    made, pairs = list(pictures), [(one.shape, size) for one, size in zip(pictures, sizes, strict=True)]
    for pair in dict.fromkeys(pairs):
        mine = [i for i, one in enumerate(pairs) if one == pair]
        some = resized(torch.stack([pictures[i] for i in mine]), pair[1])
        for i, one in zip(mine, some, strict=True):
            made[i] = one
    return made


def _filled(tiles: Sequence[Tensor], images: Sequence[Grid | Cut]) -> Pixels:
    """Pixels of images that are encoded so, out of their tiles, of which smaller ones are filled up."""
    own = tuple((tile.shape[1], tile.shape[2]) for tile in tiles)
    most = max(high for high, _ in own), max(wide for _, wide in own)
    values = torch.stack([F.pad(tile, (0, most[1] - tile.shape[2], 0, most[0] - tile.shape[1])) for tile in tiles])
    cuts = tuple(one for one in _beside(images) if isinstance(one, Cut))
    if cuts:
        return Pixels.cut(values, cuts)
    return replace(Pixels.whole(values), sizes=own if any(size != most for size in own) else None)


def _beside(images: Sequence[Grid | Cut]) -> list[Grid | Cut]:
    """The same, whole pictures as `plain` cuts where others are cut."""
    if not any(isinstance(one, Cut) for one in images):
        return list(images)
    return [one if isinstance(one, Cut) else Cut(tile=one, size=one, plain=True) for one in images]


def smaller(grid: Grid, budget: int) -> Grid:
    """The smallest grid of about the same shape that holds the budget, which the grid itself does."""
    rows, columns = grid
    found = [grid]
    for row in range(1, rows + 1):
        like = round(row * columns / rows)
        found += [(row, one) for one in (like, like + 1) if 1 <= one <= columns and row * one >= budget]
    return min(found, key=lambda one: (one[0] * one[1], abs(one[0] / rows - one[1] / columns)))


def resized(values: Tensor, size: Grid) -> Tensor:
    """Pictures `[T C H W]` at another size (height, width)."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values.float(), size=size, mode="bicubic", antialias=True, align_corners=False).to(values)
