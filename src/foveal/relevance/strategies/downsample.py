"""Image downsampling: the encoder itself sees a smaller picture, at less cost; it beats many who prune.

Before the encoder; needs pictures, not features of them, and an encoder of any size of picture. Of an image in tiles it
takes what these show together for one picture, without the view.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import Plan
from foveal.core.types import Cut, Grid, Layout, Patches, Pixels, Query, VisualTokens
from foveal.relevance.allocation import partition
from foveal.relevance.spending import Shares, checked, planned, spend


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` tokens an image."""

    budget: int = 64


class Downsample(nn.Module):
    """The smallest picture of its shape whose tokens are the budget or more; what is over is pooled evenly."""

    steered = False

    def __init__(self, *, budget: int = 64) -> None:
        super().__init__()
        self.budget = checked(budget)

    def sizes(self, sizes: "list[Grid | Cut] | tuple[Grid | Cut, ...]", plan: Plan) -> list[Grid]:
        """How large each picture is encoded; raises InputError for videos, and for an encoder of one size alone."""
        whole = [_whole(one) if isinstance(one, Cut) else one for one in sizes]
        known = {size: self._size(size, plan) for size in dict.fromkeys(whole)}
        return [known[size] for size in whole]

    def before(self, pixels: Pixels | Patches, plan: Plan) -> Pixels:
        """The pictures at those sizes, antialiased; takes the errors of `sizes`."""
        if isinstance(pixels, Patches):
            raise InputError("strategy 'downsample' makes pictures smaller, and these come in patches; take another")
        pixels = pixels if pixels.cuts is None else joined(pixels, pixels.cuts)
        height, width = pixels.values.shape[-2:]
        now = pixels.sizes or ((height, width),) * len(pixels.values)
        then = self.sizes(now, plan)
        most = max(size[0] for size in then), max(size[1] for size in then)
        values = pixels.values.new_zeros(*pixels.values.shape[:2], *most)
        for old, new in sorted({*zip(now, then, strict=True)}):
            mine = [i for i, pair in enumerate(zip(now, then, strict=True)) if pair == (old, new)]
            values[mine, :, : new[0], : new[1]] = resized(pixels.values[mine, :, : old[0], : old[1]], new)
        return replace(pixels, values=values, sizes=tuple(then) if any(size != most for size in then) else None)

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="downsample")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Pool what is over."""

        def choose(features: Tensor, grid: Grid, images: Tensor) -> Shares:
            made = partition(features[:, :, :1] * 0, grid=grid, budget=self.budget)
            return made.assignment, torch.ones_like(features[..., 0])

        return spend(visual, self.budget, choose, name="downsample")

    def _size(self, size: Grid, plan: Plan) -> Grid:
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


def joined(pixels: Pixels, cuts: tuple[Cut, ...]) -> Pixels:
    """Images out of their tiles, smaller ones filled up; raises InputError for videos."""
    sizes = tuple(_whole(cut) for cut in cuts)
    most = max(size[0] for size in sizes), max(size[1] for size in sizes)
    values = pixels.values.new_zeros(len(cuts), pixels.values.shape[1], *most)
    tiles = iter(pixels.values)
    for image, cut in enumerate(cuts):
        (high, wide), alone = cut.tile, cut.grid == (0, 0)
        for row, column in cut.spots:
            tile = next(tiles)[:, :high, :wide]
            if alone or row >= 0:
                top, left = max(row, 0) * high, max(column, 0) * wide
                values[image, :, top : top + high, left : left + wide] = tile
    return replace(Pixels.whole(values), sizes=sizes if any(size != most for size in sizes) else None)


def _whole(cut: Cut) -> Grid:
    """Height and width of what the tiles of an image show together."""
    if cut.frames:
        raise InputError("strategy 'downsample' makes pictures smaller, and these are frames of a video; take another")
    return cut.tile[0] * max(cut.grid[0], 1), cut.tile[1] * max(cut.grid[1], 1)


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
