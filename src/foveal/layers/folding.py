"""Grids of visual tokens folded: neighbours of a square block become one."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, VisualTokens


def checked(factor: int, *, name: str) -> int:
    """The factor itself; raises InputError where it is none."""
    if factor < 1:
        raise InputError(f"{name} has a factor of {factor}; give 1 or more")
    return factor


def folded(layout: Layout, factor: int, *, name: str) -> Layout:
    """The layout with `factor` x `factor` cells in one.

    Raises InputError where tokens lie on no grid, and for a grid that the factor does not divide.
    """
    grids: list[Grid] = []
    for image, grid in enumerate(layout.grids):
        if grid is None:
            raise InputError(f"{name} folds a grid, but the tokens of image {image} lie on none; use mlp")
        if grid[0] % factor or grid[1] % factor:
            raise InputError(
                f"{name} folds {factor} x {factor} cells, but the grid of image {image} is {grid[0]} x {grid[1]} (rows "
                "x columns); take a factor that divides both, or images of another size"
            )
        grids.append((grid[0] // factor, grid[1] // factor))
    counts = tuple(count // factor**2 for count in layout.counts)
    return replace(layout, counts=counts, grids=tuple(grids), slots=None)


def fold(visual: VisualTokens, layout: Layout, factor: int) -> VisualTokens:
    """Features `[S/factor^2 factor^2*E]`, the cells of each block row by row, on the `layout` that `folded` made."""
    features, *levels = (_blocks(part, visual.layout, factor) for part in (visual.features, *visual.levels))
    mass = _blocks(visual.mass[:, None], visual.layout, factor).sum((1, 2))
    made = VisualTokens.on_layout(features.flatten(1), layout, tuple(level.mean(1) for level in levels))
    return replace(made, mass=mass)


def _blocks(features: Float[Tensor, "S E"], layout: Layout, factor: int) -> Float[Tensor, "N K E"]:
    parts, start = [], 0
    for (rows, columns), images in runs(layout.by_frame()):
        count = images * rows * columns
        cells = features[start : start + count].view(images, rows // factor, factor, columns // factor, factor, -1)
        parts.append(cells.transpose(2, 3).reshape(count // factor**2, factor**2, -1))
        start += count
    return torch.cat(parts) if parts else features.new_zeros(0, factor**2, features.shape[1])


def runs(layout: Layout) -> Sequence[tuple[Grid, int]]:
    """Neighbouring images with the same grid, to be treated together: the grid, and how many they are."""
    made: list[tuple[Grid, int]] = []
    for grid in layout.grids:
        assert grid is not None
        if made and made[-1][0] == grid:
            made[-1] = (grid, made[-1][1] + 1)
        else:
            made.append((grid, 1))
    return made
